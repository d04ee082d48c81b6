"""A real witness (litewitness) with a key of its own, which a small ssh-agent keeps for it as it wants."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.vault.contract.verify import COSIGNATURE_V1, note_key_id, raw_key


class Witness:
    """Runs from `start` to `stop`; `pause` leaves it half-open, as a machine that hangs does."""

    def __init__(self, program: Path, folder: Path, name: str, port: int):
        self.name, self.url = name, f"http://127.0.0.1:{port}"
        self._program, self._folder, self._port = program, folder, port
        folder.mkdir(parents=True)
        key = Ed25519PrivateKey.generate()
        public = raw_key(key.public_key())
        material = base64.b64encode(COSIGNATURE_V1 + public).decode()
        self.vkey = f"{name}+{note_key_id(name, public, COSIGNATURE_V1).hex()}+{material}"
        self._blob = _string(b"ssh-ed25519") + _string(public)
        self._agent = _Agent(key, self._blob, folder / "agent")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._agent.stop()

    def start(self) -> None:
        fingerprint = base64.b64encode(hashlib.sha256(self._blob).digest()).decode().rstrip("=")
        argv = [str(self._program), "-db", str(self._folder / "db"), "-name", self.name]
        argv += ["-key", f"SHA256:{fingerprint}", "-ssh-agent", str(self._folder / "agent")]
        argv += ["-listen", f"127.0.0.1:{self._port}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return
            time.sleep(0.05)
        raise AssertionError((self._folder / "log").read_text())

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        os.kill(self._process.pid, signal.SIGCONT)

    def know(self, origin: str, vkey: str) -> None:
        """Make a log known to the witness, as its operator does."""
        with self._database() as db:
            db.execute("INSERT INTO log VALUES (?, 0, ?)", (origin, base64.b64encode(bytes(32)).decode()))
            db.execute("INSERT INTO key VALUES (?, ?)", (origin, vkey))

    def also_know(self, origin: str, vkey: str) -> None:
        """Another key of a log that it knows, as its operator adds one."""
        with self._database() as db:
            db.execute("INSERT INTO key VALUES (?, ?)", (origin, vkey))

    def remembers(self, size: int, root: bytes) -> tuple[int, bytes]:
        """Make the witness remember another tree of its one log; what it remembered before."""
        with self._database() as db:
            before, digest = db.execute("SELECT tree_size, tree_hash FROM log").fetchone()
            db.execute("UPDATE log SET tree_size = ?, tree_hash = ?", (size, base64.b64encode(root).decode()))
        return before, base64.b64decode(digest)

    @contextlib.contextmanager
    def _database(self):  # type: ignore[no-untyped-def]
        db = sqlite3.connect(self._folder / "db", timeout=10)
        try:
            with db:
                yield db
        finally:
            db.close()


class _Agent:
    """The two messages of the ssh-agent protocol that a witness sends: which keys, and sign this."""

    def __init__(self, key: Ed25519PrivateKey, blob: bytes, path: Path):
        self._key, self._blob = key, blob
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while head := stream.read(4):
                message = stream.read(int.from_bytes(head, "big"))
                answer = b"\x05"
                if message[0] == 11:
                    answer = b"\x0c" + struct.pack(">I", 1) + _string(self._blob) + _string(b"witness")
                elif message[0] == 13:
                    rest = message[1 + 4 + len(self._blob) :]
                    data = rest[4 : 4 + int.from_bytes(rest[:4], "big")]
                    answer = b"\x0e" + _string(_string(b"ssh-ed25519") + _string(self._key.sign(data)))
                connection.sendall(_string(answer))


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value
