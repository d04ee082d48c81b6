"""A gateway in front of the real store that can lie: what it does not lie about is passed on as it came."""

from __future__ import annotations

import hashlib
import http.client
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3
from minio.time import to_amz_date

from deploy.local.minio import Minio
from tests.system import System, free_ports, running

LOCK = "x-amz-object-lock-"


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def who(self) -> str:
        """The access key that signed it."""
        found = re.search(r"Credential=([^/]+)/", self.headers.get("authorization", ""))
        return found[1] if found else ""

    @property
    def query(self) -> str:
        return urlsplit(self.target).query


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Gateway:
    """`lie(gateway, request)` answers every request; `forward` passes one on, `as_root` signs it anew for root."""

    def __init__(self, minio: Minio, lie: Callable[[Gateway, Request], Answer]):
        self.minio, self.lie = minio, lie
        self.endpoint = ""

    def forward(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self.minio.endpoint, timeout=30)
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, headers, answer.read())
        finally:
            connection.close()

    def as_root(self, request: Request, *, without: tuple[str, ...] = (), **more: str) -> Answer:
        """Done with full rights; headers that begin with one of `without` are left out."""
        kept = {
            k: v for k, v in request.headers.items() if not k.startswith((*without, "authorization", "x-amz-date"))
        }
        url = urlsplit(f"http://{self.minio.endpoint}{request.target}")
        payload, now = hashlib.sha256(request.body).hexdigest(), datetime.now(UTC)
        sent: dict[str, str | list[str] | tuple[str]] = {
            **kept,
            **{name.replace("_", "-"): value for name, value in more.items()},
            "host": url.netloc,
            "x-amz-date": to_amz_date(now),
            "x-amz-content-sha256": payload,
            "content-length": str(len(request.body)),
        }
        root = Credentials(self.minio.access_key, self.minio.secret_key)
        signed = sign_v4_s3(
            method=request.method,
            url=url,
            region="us-east-1",
            headers=sent,
            credentials=root,
            content_sha256=payload,
            date=now,
        )
        return self.forward(replace(request, headers={name.lower(): str(value) for name, value in signed.items()}))


def truthful(gateway: Gateway, request: Request) -> Answer:
    return gateway.forward(request)


@contextmanager
def gateway(minio: Minio, lie: Callable[[Gateway, Request], Answer] = truthful) -> Iterator[Gateway]:
    """A running gateway; its `lie` may be exchanged while it runs."""
    here = Gateway(minio, lie)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            answer = here.lie(here, Request(self.command, self.path, headers, body))
            self.send_response_only(answer.status)
            told = {"content-length": str(len(answer.body))} | answer.headers
            for name, value in told.items():
                if name not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _answer

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Who asked may be gone."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    here.endpoint = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def gated(binary: Path, **settings: str) -> Iterator[tuple[System, Gateway]]:
    """A system of its own that reaches its MinIO through a gateway, as the holders of its tickets do; truthful to
    begin with. `settings` are the vault's."""
    port = free_ports()
    with gateway(Minio(Path("/nonexistent"), binary, port + 2)) as gate:
        told = {"s3_endpoint": gate.endpoint, **settings}
        environment = {f"QUANCHENG_VAULT_{name.upper()}": value for name, value in told.items()}
        with running(binary, port=port, settings=environment) as system:
            assert system.stack.minio
            gate.minio = system.stack.minio
            yield system, gate
