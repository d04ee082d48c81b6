"""One run of the terminal: capture into the spool, and beside it the uplinks that empty the spool.

Capture never waits for the network, and what an earlier run left is sent while the new recording goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from services.terminal.camera import Camera, Source
from services.terminal.capture import CaptureFailed
from services.terminal.heartbeat import Heartbeat
from services.terminal.home import Enrolled, Home
from services.terminal.keeping import Keeper, WhenFull
from services.terminal.line import RecordingStuck
from services.terminal.progress import Progress
from services.terminal.running import DONE, REMAINS, Running
from services.terminal.spool import RecordingSpool, Spool, SpoolError
from services.terminal.uplink import Drain, Uplink

CAPTURE_FAILED, SPOOL_FULL = 3, 4
"""Exit codes: ffmpeg died; no room for something."""
_LEFTOVERS_AT_ONCE = 4


@dataclass(frozen=True)
class Policy:
    """How the spool is filled and emptied. `forget`: no receipts are kept of what is closed."""

    spool_bytes: int
    drain_seconds: float
    forget: bool
    drain: Drain = "oldest"
    when_full: WhenFull = "stop"


class Session(Running):
    """Records, sends and closes."""

    def __init__(
        self,
        home: Home,
        enrolled: Enrolled,
        progress: Progress,
        policy: Policy,
    ):
        super().__init__(home, enrolled, progress, drain_seconds=policy.drain_seconds)
        self._policy = policy
        self._spool = Spool(home.path, limit_bytes=policy.spool_bytes)
        self._heartbeat = Heartbeat(self._api, self._spool)
        self._camera: Camera | None = None
        self._keeper: Keeper | None = None
        self._sending: list[asyncio.Task[None]] = []

    async def record(self, source: Source) -> int:
        """Record, send and close, together with what was left over; the exit code."""
        camera = Camera(source, self._progress, self._heartbeat)
        self._listen_to_signals()
        self._heartbeat.state = "recording"
        async with self._api, self._asking_for_keys(), self._heartbeat.beating():
            self._take_leftovers()
            code = await self._record(camera)
            await self._drained(self._sending)
        return code or self._remains()

    async def resume(self) -> int:
        """Send and close what earlier runs left; the exit code."""
        self._listen_to_signals()
        async with self._api, self._asking_for_keys(), self._heartbeat.beating():
            self._take_leftovers()
            await self._drained(self._sending)
        return self._remains()

    async def _record(self, camera: Camera) -> int:
        self._camera, code = camera, DONE

        def send(recording: RecordingSpool) -> Uplink:
            return self._send(recording, on_segment_seconds=camera.follow)

        self._keeper = keeper = Keeper(
            self._spool, send, self._progress, self._heartbeat, when_full=self._policy.when_full
        )
        stopper = asyncio.create_task(self._stop_when_told(camera))
        try:
            async with contextlib.aclosing(camera.pieces()) as pieces:
                async for piece in pieces:
                    await keeper.keep(piece)
        except CaptureFailed as error:
            code = CAPTURE_FAILED
            self._error(f"录制中断：{error.said or '采集程序异常结束，没有说明'}。已录部分将照常封存。")
        except (SpoolError, OSError) as error:
            code = SPOOL_FULL
            self._error(f"录制已停止！{error} 此后的画面没有录下；此前的片段都在暂存区，不会删除。")
        finally:
            stopper.cancel()
        begun = keeper.recording is not None
        self._heartbeat.capturing, self._heartbeat.state = False, "draining"
        await keeper.end(interrupted=code != DONE)
        self._heartbeat.now()
        if not begun and not self._stopping.is_set():
            self._error("没有录到任何画面。")
            return code or CAPTURE_FAILED
        return code or (SPOOL_FULL if keeper.skipped else DONE)

    def _take_leftovers(self) -> None:
        leftovers = self._spool.leftovers()
        if self._policy.drain == "newest":
            leftovers.reverse()
        for path in self._spool.unreadable:
            self._error(f"暂存区中有一条记录无法读取：{path}。请勿删除，联系管理员处理。")
        # Side by side, so that one which cannot go on holds up none of the others.
        places = asyncio.Semaphore(_LEFTOVERS_AT_ONCE)
        self._heartbeat.recordings |= {one.id: one for one in leftovers}
        self._sending += [asyncio.create_task(self._send_leftover(one, places)) for one in leftovers]

    async def _send_leftover(self, recording: RecordingSpool, places: asyncio.Semaphore) -> None:
        async with places:
            self._progress.tell("leftover", recording=str(recording.id), pending=len(recording.pending))
            uplink = self._uplink(recording)
            ended = recording.ended()
            uplink.end(interrupted=ended is None or ended.interrupted)
            await self._run(recording, uplink)

    def _send(self, recording: RecordingSpool, *, on_segment_seconds: Callable[[int], None]) -> Uplink:
        uplink = self._uplink(recording, on_segment_seconds)
        self._heartbeat.recordings[recording.id] = recording
        self._sending.append(asyncio.create_task(self._run(recording, uplink)))
        return uplink

    def _uplink(self, recording: RecordingSpool, on_segment_seconds: Callable[[int], None] | None = None) -> Uplink:
        return Uplink(
            recording,
            self._api,
            self._key,
            self._pinned,
            self._progress,
            forget=self._policy.forget,
            drain=self._policy.drain,
            on_segment_seconds=on_segment_seconds,
        )

    async def _run(self, recording: RecordingSpool, uplink: Uplink) -> None:
        try:
            await uplink.run()
            del self._heartbeat.recordings[recording.id]
        except RecordingStuck as error:
            self._error(f"记录 {recording.id} 无法送完：{error} 片段仍在暂存区。", recording)
        except OSError as error:
            self._error(f"记录 {recording.id} 暂停发送：暂存区读写失败（{error.strerror}）。", recording)

    def _remains(self) -> int:
        left = self._spool.leftovers(repair=False)
        if not left:
            return REMAINS if self._spool.unreadable else DONE
        segments = sum(len(recording.pending) for recording in left)
        self._error(f"尚有 {len(left)} 条记录没有关闭、{segments} 个片段没有凭证，都在暂存区；运行 resume 续传。")
        return REMAINS

    async def _stop_when_told(self, camera: Camera) -> None:
        await self._stopping.wait()
        await camera.stop()

    def _leave_at_once(self) -> NoReturn:
        if self._camera is not None:
            self._camera.kill()
        super()._leave_at_once()

    def _error(self, reason: str, recording: RecordingSpool | None = None) -> None:
        about = recording or (self._keeper.recording if self._keeper else None)
        self._progress.tell("error", reason=reason, **({"recording": str(about.id)} if about else {}))
