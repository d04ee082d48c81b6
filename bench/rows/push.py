"""The push door in bulk, beside tusd writing the same bytes to the same MinIO."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from uuid import uuid4

import httpx

from bench.frame import Unavailable, row
from bench.peers import tusd
from bench.rows import direct
from bench.rows.direct import BARE, bucket
from bench.system import MIB, bulk_bytes, held, minio_system, require_room, say
from deploy.local.processes import LocalError, Supervised
from services.terminal.capture import find_ffmpeg
from tests.flows.pushing import Source
from tests.system import free_ports

STREAMS = 4
_CHUNK = 256 * 1024
_GOP_BYTES = 2 * MIB


@cache
def material() -> list[Path]:
    """Fragmented MP4 streams that make up one bulk measurement: a real init, and real fragments whose `mdat` is
    grown to 2 MiB of random bytes, a second each."""
    system, size = minio_system(), bulk_bytes() // STREAMS
    require_room(system, 14 * bulk_bytes())
    head, moof = pieces_of_stream(seconds=1)
    at = moof.index(b"tfdt") + 8
    folder = Path(tempfile.mkdtemp(dir=system.folder, prefix="streams-"))
    files = [folder / f"{n}.mp4" for n in range(STREAMS)]
    ticks = 10_240
    for path in files:
        with path.open("wb") as file:
            file.write(head)
            for second in range(size // _GOP_BYTES):
                begun = (second * ticks).to_bytes(8, "big")
                file.write(moof[:at] + begun + moof[at + 8 :])
                file.write((_GOP_BYTES + 8).to_bytes(4, "big") + b"mdat" + os.urandom(_GOP_BYTES))
    return files


def pieces_of_stream(*, seconds: int) -> tuple[bytes, bytes]:
    """A real init, and the `moof` of a real fragment of so many seconds from key frame to key frame."""
    picture = f"testsrc=size=160x90:rate=10:duration={2 * seconds}"
    argv = [find_ffmpeg(None), "-v", "error", "-f", "lavfi", "-i", picture]
    argv += ["-c:v", "libx264", "-preset", "ultrafast", "-g", str(10 * seconds), "-f", "mp4"]
    argv += ["-movflags", "+frag_keyframe+empty_moov+default_base_moof", "pipe:1"]
    made = subprocess.run(argv, check=True, capture_output=True).stdout
    first = made.index(b"moof") - 4
    return made[:first], made[first : made.index(b"mdat", first) - 4]


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _rate(send: Callable[[Path], None]) -> float:
    """MiB/s of sending all streams at once."""
    files = material()
    with ThreadPoolExecutor(STREAMS) as pool:
        began = time.monotonic()
        list(pool.map(send, files))
        return bulk_bytes() / MIB / (time.monotonic() - began)


@cache
def _tusd() -> str:
    """The address at which a tusd serves that writes to a bucket of its own in our MinIO."""
    system = minio_system()
    store = system.stack.minio
    assert store
    held.enter_context(bucket(BARE, lock=False))
    url = f"http://127.0.0.1:{(port := free_ports(1))}"
    argv = [str(tusd()), "-host", "127.0.0.1", "-port", str(port), "-base-path", "/files/", "-disable-cors"]
    argv += ["-s3-bucket", BARE, "-s3-endpoint", f"http://{store.endpoint}"]
    keys = {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key}
    env = {"PATH": os.defpath, "AWS_REGION": "us-east-1", **keys}
    program = Supervised("tusd", argv, env, system.folder / "tusd.log", f"{url}/metrics", report=say)
    held.callback(program.stop)
    try:
        program.start()
    except LocalError as error:
        raise Unavailable(str(error)) from error
    return f"{url}/files/"


def _upload(url: str, path: Path) -> None:
    """tus 1.0.0: a creation, and all of it in one PATCH."""
    with httpx.Client(trust_env=False, timeout=600, headers={"tus-resumable": "1.0.0"}) as http:
        made = http.post(url, headers={"upload-length": str(path.stat().st_size)})
        made.raise_for_status()
        headers = {"upload-offset": "0", "content-type": "application/offset+octet-stream"}
        http.patch(made.headers["location"], content=chunks(path), headers=headers).raise_for_status()


def with_tusd() -> float:
    """tusd: each stream one upload, kept in MinIO by multipart upload."""
    return _rate(partial(_upload, _tusd()))


@row("resumable-bulk", unit="MiB/s", better="higher", goal=1.0, peer=with_tusd, runs=3)
def resumable_bulk() -> float:
    """Four uploads by tus at once, each until its PATCH is answered: all of it hashed, put with checksum and lock in
    segments of 8 MiB, checked and receipted. The digest of the whole comes after, by a job, and is not waited for."""
    return _rate(partial(_upload, Source(minio_system(), "dock", name=f"bench {uuid4()}").uploads))


def _api_seconds() -> float:
    """CPU time of the api so far, of user and system."""
    api = minio_system().stack.api
    assert api and api.pid
    fields = Path(f"/proc/{api.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _per_gib(send: Callable[[], object]) -> float:
    before = _api_seconds()
    send()
    return (_api_seconds() - before) / (bulk_bytes() / 1024 / MIB)


def pushed_cpu() -> float:
    return _per_gib(push_bulk)


@row("direct-cpu", unit="s/GiB", better="lower", goal=1 / 20, peer=pushed_cpu, runs=3)
def direct_cpu() -> float:
    """CPU seconds of the api for each GiB that comes by the direct door, beside the push door."""
    return _per_gib(direct.direct_bulk)


@row("push-bulk", unit="MiB/s", better="higher", goal=1.0, peer=with_tusd, runs=3)
def push_bulk() -> float:
    """Four chunked fragmented MP4 bodies at once, from their first byte until each is answered: all of it cut,
    hashed, put with checksum and lock, checked, receipted and indexed."""
    sources = [Source(minio_system(), name=f"bench {uuid4()}") for _ in range(STREAMS)]

    def send(path: Path) -> None:
        source = sources[material().index(path)]
        answer = httpx.put(source.url + "live.mp4", content=chunks(path), timeout=600, trust_env=False)
        answer.raise_for_status()

    return _rate(send)
