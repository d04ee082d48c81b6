"""The MinIO of the local default: found or built once, and run.

    minio = Minio(data, find_or_build(print), port=8102)
    minio.start()
    minio.endpoint, minio.access_key, minio.secret_key

MinIO's public source ends with the commit named here, which comes after its last security release; nobody
ships programs of it any more, so it is built from the Go module (`golang.py`).
"""

import os
import secrets
from pathlib import Path

from deploy.local import golang
from deploy.local.golang import Program
from deploy.local.processes import Report, Supervised, make_folder, read_secrets, require_free_port, require_room


def works(program: Path) -> bool:
    """Whether `program` runs here and says that it is MinIO."""
    said = golang.answer_of(program, "--version")
    return said is not None and said.returncode == 0 and said.stdout.startswith("minio version")


MINIO = Program(
    title="MinIO",
    package="github.com/minio/minio",
    version="v0.0.0-20260212201848-7aac2a2c5b7c",
    needs_go=(1, 24),  # the `go` line of that commit's go.mod
    variable="QUANCHENG_MINIO",
    works=works,
    minutes="3 到 10",
    megabytes=3000,
)


def find_or_build(report: Report = print) -> Path:
    """The MinIO program, built into the cache where the machine has none (minutes, once). Raises LocalError."""
    return golang.find_or_build(MINIO, report)


# --- running ---


class Minio:
    """One MinIO on the loopback, its objects in `data/minio`, its root credentials in `data/secrets`."""

    def __init__(self, data: Path, binary: Path, port: int, *, report: Report = print) -> None:
        self.data = data.absolute()
        self.folder = self.data / "minio"
        self.port = port
        self.endpoint = f"127.0.0.1:{port}"
        self.access_key = ""
        self.secret_key = ""
        self._binary = binary
        self._report = report
        self._program: Supervised | None = None

    def start(self) -> None:
        """Start and wait until it serves. LocalError when the port is taken, or the disk full."""
        if self._program is not None:
            return
        require_free_port(self.port, "对象存储 MinIO")
        make_folder(self.folder, 0o700)
        require_room(self.folder, 1100)  # MinIO refuses to write below 1 GiB
        kept = read_secrets(self.data / "secrets" / "minio.json", new_credentials)
        self.access_key, self.secret_key = kept["access_key"], kept["secret_key"]
        settings = {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CALLHOME_ENABLE": "off",
        }
        # Other MINIO_… settings of the user's must not turn this one into something else.
        env = {k: v for k, v in os.environ.items() if not k.startswith("MINIO_")} | settings
        program = Supervised(
            "对象存储 MinIO",
            [str(self._binary), "server", "--address", self.endpoint, "--quiet", str(self.folder)],
            env,
            self.data / "logs" / "minio.log",
            f"http://{self.endpoint}/minio/health/ready",
            report=self._report,
            cwd=self.data,
        )
        program.start()
        self._program = program

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None

    def kill(self) -> None:
        """SIGKILL; it is then restarted. For staging faults."""
        if self._program is not None:
            self._program.kill()

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until it serves again after `kill`; LocalError after `timeout` seconds."""
        if self._program is not None:
            self._program.wait_ready(timeout)

    @property
    def pid(self) -> int | None:
        return self._program.pid if self._program is not None else None


def new_credentials() -> dict[str, str]:
    return {"access_key": "quancheng-" + secrets.token_hex(5), "secret_key": secrets.token_urlsafe(30)}
