"""A real time-stamping authority: `openssl ts -reply` with a certificate of its own, behind a small HTTP server."""

from __future__ import annotations

import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

_CONFIGURATION = """
[tsa]
default_tsa = one
[one]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""
_EXTENSIONS = "extendedKeyUsage=critical,timeStamping\nbasicConstraints=critical,CA:false\n"


class Authority:
    """`mood` is how it answers: "well", "away" (503), "replay" (an older token), "garbage", "stranger" (a token by
    another key with the same names), "refused" (a proper refusal), "silent" (nothing, for as long as it is)."""

    def __init__(self, folder: Path, *, key: str = "rsa:2048"):
        self.mood = "well"
        self.asked = 0
        self._folder = folder
        folder.mkdir(parents=True)
        (folder / "ts.cnf").write_text(_CONFIGURATION)
        (folder / "extensions").write_text(_EXTENSIONS)
        (folder / "serial").write_text("01\n")
        for name in ("own", "stranger"):
            self._certify(name, key)
        self.certificate = folder / "pinned.pem"
        self.certificate.write_text((folder / "own.pem").read_text() + (folder / "own-ca.pem").read_text())
        self._older: bytes | None = None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/tsa"

    @property
    def listed(self) -> dict[str, str]:
        return {"url": self.url, "certificate": str(self.certificate)}

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reply(self, query: bytes, who: str = "own") -> bytes:
        with self._lock:
            (self._folder / "query").write_bytes(query)
            signer = ["-signer", f"{who}.pem", "-inkey", f"{who}.key"]
            self._openssl("ts", "-reply", "-config", "ts.cnf", "-queryfile", "query", *signer, "-out", "reply")
            return (self._folder / "reply").read_bytes()

    def _certify(self, name: str, key: str) -> None:
        new = ["-newkey", key, "-nodes"]
        if key == "ec":
            new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=CA"),
            *("-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem"),
        )
        self._openssl("req", *new, "-subj", "/CN=TSA", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{name}-ca.pem", "-CAkey", f"{name}-ca.key"),
            *("-set_serial", "7", "-days", "30", "-extfile", "extensions", "-out", f"{name}.pem"),
        )

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _answer(self, query: bytes) -> tuple[int, bytes]:
        self.asked += 1
        while self.mood == "silent":
            time.sleep(0.05)
        if self.mood == "away":
            return 503, b""
        if self.mood == "garbage":
            return 200, b"<html>login</html>"
        if self.mood == "replay":
            assert self._older
            return 200, self._older
        if self.mood == "refused":
            return 200, self.reply(b"not a query")
        answer = self.reply(query, "stranger" if self.mood == "stranger" else "own")
        self._older = self._older or answer
        return 200, answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["content-length"]))
                kind = self.headers["content-type"]
                status, answer = authority._answer(query) if kind == "application/timestamp-query" else (415, b"")
                self.send_response(status)
                self.send_header("content-type", "application/timestamp-reply")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
