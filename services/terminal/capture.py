"""The camera: an ffmpeg child that writes fragmented MP4, one fragment a group of pictures, to our pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from services.terminal.home import TerminalError

DEMO = "demo"
_FONTS = Path(__file__).parent / "fonts"
_CHUNK = 256 * 1024
_STOP_SECONDS = 5.0
_SILENCE_SECONDS = 30.0
_SILENCE_ENCODED_SECONDS = 10.0
"""A camera that says nothing for this long has stopped, and whoever carries it must hear so. What is encoded here has
a key frame every second; what is copied comes as seldom as the camera makes one, and a source takes time to open."""

_DEMO_PICTURE = (
    "testsrc2=size=1280x720:rate=25,realtime,"
    # Names relative to the fonts folder: a path with a colon or a quote would not survive a filter's syntax.
    "drawtext=fontfile=clock.ttf:textfile=clock.txt:fontsize=64:fontcolor=white:"
    "box=1:boxcolor=black@0.75:boxborderw=18:x=(w-text_w)/2:y=60"
)
_DEMO_SOUND = "sine=frequency=440:sample_rate=48000,volume=0.3,arealtime"
_VIDEO = [
    *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-pix_fmt", "yuv420p"),
    *("-crf", "27", "-maxrate", "3800k", "-bufsize", "3800k", "-threads", "2"),
    *("-g", "250", "-force_key_frames", "expr:gte(t,n_forced*1)"),
]
_SOUND = ["-c:a", "aac", "-b:a", "96k", "-ar", "48000", "-ac", "1"]
_ENCODE = [*_VIDEO, *_SOUND]
_DEVICES = "/dev/video"
_FRAGMENTED = ["-f", "mp4", "-movflags", "+frag_keyframe+empty_moov+default_base_moof+skip_trailer"]


class NoFfmpeg(TerminalError):
    exit_code = 2


class NoSource(TerminalError):
    exit_code = 2


class CaptureFailed(Exception):
    """ffmpeg ended though nobody asked it to; `said` is the last it wrote."""

    def __init__(self, code: int, said: str):
        super().__init__(f"ffmpeg {code}: {said}")
        self.code, self.said = code, said


def find_ffmpeg(given: str | None) -> str:
    """The one named, else PATH's, else the one that the `imageio-ffmpeg` wheel carries."""
    found = shutil.which(given) if given else shutil.which("ffmpeg")
    if found:
        return os.path.abspath(found)
    if given:
        raise NoFfmpeg(f"找不到 ffmpeg：{given}。")
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise NoFfmpeg("找不到 ffmpeg：请安装 ffmpeg，或用 --ffmpeg 指明路径。") from error


def arguments(source: str, *, seconds: float | None, copy: bool, at: float | None = None) -> list[str]:
    """ffmpeg's command line for a source: `demo`, a camera, a file (read in real time) or an ffmpeg input address.

    `at` is where on the recording's time line it begins again; whether the source is there is ffmpeg's to say then.
    Raises NoSource."""
    codecs = ["-c", "copy"] if copy else _ENCODE
    streams = ["-map", "0:v:0", "-map", "0:a:0?"]
    if source == DEMO:
        inputs = ["-f", "lavfi", "-i", _DEMO_PICTURE, "-f", "lavfi", "-i", _DEMO_SOUND]
        codecs, streams = _ENCODE, ["-map", "0:v:0", "-map", "1:a:0"]
    elif Path(source).is_file():
        inputs = ["-re", "-i", os.path.abspath(source)]
    elif source.startswith(_DEVICES) and (at is not None or Path(source).exists()):
        inputs = ["-f", "v4l2", "-i", source]
    elif source.startswith(("rtsp://", "rtsps://")):
        inputs = ["-rtsp_transport", "tcp", "-i", source]
    elif "://" in source or Path(source).exists() or at is not None:
        inputs = ["-i", source]
    else:
        raise NoSource(f"找不到录制来源：{source}。")
    limit = ["-t", str(seconds)] if seconds is not None else []
    head = ["-hide_banner", "-nostdin", "-loglevel", "error"]
    return [*head, *inputs, *streams, *limit, *codecs, *_FRAGMENTED, *_begun_at(at), "pipe:1"]


def _begun_at(at: float | None) -> list[str]:
    """Fragments that go on from there; their init segment is the same as from zero."""
    if at is None:
        return []
    return [
        *("-movflags", "+frag_discont"),
        *("-avoid_negative_ts", "make_non_negative"),
        "-output_ts_offset",
        f"{at:.3f}",
    ]


class Capture:
    """One run of ffmpeg.

    It is no child of the keyboard's group, so that a Ctrl-C reaches us first and it can end in good order.
    """

    def __init__(self, process: asyncio.subprocess.Process, silence: float):
        self._process, self._silence = process, silence
        self._said: deque[str] = deque(maxlen=5)
        self._listening = asyncio.create_task(self._listen())
        self.stopped = False

    @classmethod
    async def start(cls, ffmpeg: str, command: list[str], *, copy: bool) -> Capture:
        try:
            process = await asyncio.create_subprocess_exec(
                ffmpeg,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=_FONTS,
                # A zone without a zone database: minimal machines have none.
                env={**os.environ, "TZ": "CST-8"},
                start_new_session=True,
                limit=_CHUNK,
            )
        except OSError as error:
            raise NoFfmpeg(f"ffmpeg 无法启动：{ffmpeg}（{error.strerror}）。") from error
        return cls(process, _SILENCE_SECONDS if copy else _SILENCE_ENCODED_SECONDS)

    async def chunks(self) -> AsyncIterator[bytes]:
        """What ffmpeg writes, until it ends. Raises CaptureFailed where nobody stopped it and it failed or fell
        silent."""
        stdout, silence = _pipe(self._process.stdout), _SILENCE_SECONDS
        try:
            while chunk := await asyncio.wait_for(stdout.read(_CHUNK), silence):
                yield chunk
                silence = self._silence
        except TimeoutError as error:
            raise CaptureFailed(0, f"{silence:.0f} 秒没有收到画面") from error
        code = await self._process.wait()
        await self._listening
        if code and not self.stopped:
            raise CaptureFailed(code, "；".join(self._said))

    async def stop(self) -> None:
        """Ask ffmpeg to finish its last fragment; after 5 s, or at once if it is stuck, kill it."""
        self.stopped = True
        self._signal(signal.SIGINT)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()

    async def end(self) -> None:
        """Nothing of ffmpeg is left after this, however its stream came to an end."""
        self.stopped = True
        self.kill()
        await self._process.wait()
        self._listening.cancel()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _listen(self) -> None:
        async for line in _pipe(self._process.stderr):
            self._said.append(line.decode(errors="replace").strip()[:300])


def _pipe(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if stream is None:
        raise RuntimeError("ffmpeg was started without its pipes")
    return stream
