"""Both real stores, each with eyes that see everything that lies in it."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI
from minio import Minio as Client
from pydantic import SecretStr

from deploy.local.minio import Minio
from deploy.local.processes import ROOT
from services.vault.settings import Settings
from services.vault.stores.local import LocalStore
from services.vault.stores.port import PutTicket, Store
from services.vault.stores.s3 import S3Store
from services.vault.stores.setup import set_up
from services.vault.stores.tickets import MOUNT
from tests.system import free_ports

POLICIES = ROOT / "deploy" / "policies"
Everything = dict[str, list[bytes]]


class Room(Protocol):
    """A store under test; `everything` is every version of every object of the evidence, by key."""

    kind: str
    store: Store

    def everything(self) -> Everything: ...


@dataclass
class Piece:
    """Some bytes with a place of their own, and a way to a ticket for them."""

    room: Room
    key: str
    data: bytes
    retain_until: datetime

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def ticket(self, *, now: datetime | None = None) -> PutTicket:
        return self.room.store.put_ticket(
            self.key, self.sha256, len(self.data), self.retain_until, now or datetime.now(UTC)
        )


def piece(room: Room, data: bytes | None = None) -> Piece:
    until = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
    name = f"recordings/{secrets.token_hex(8)}/{secrets.token_hex(4)}"
    return Piece(room, name, data if data is not None else secrets.token_bytes(70_000), until)


class LocalRoom:
    """The local folder, served by a real server as the vault serves it."""

    kind = "local"

    def __init__(self, root: Path, port: int):
        self.root, self._port = root, port
        # Without the immutable flag, so that the folder can be removed at the end.
        self.store: Store = LocalStore(root, f"http://127.0.0.1:{port}", secrets.token_bytes(32), immutable=False)

    @contextmanager
    def serving(self) -> Iterator[None]:
        app = FastAPI(openapi_url=None)
        app.mount(MOUNT, self.store)  # type: ignore[arg-type]
        with serve(app, self._port):
            yield

    def everything(self) -> Everything:
        folder = self.root / "evidence"
        found = {str(p.relative_to(folder)): [p.read_bytes()] for p in folder.rglob("*") if p.is_file()}
        incoming = {f"incoming/{p.name}": [p.read_bytes()] for p in (self.root / "incoming").iterdir()}
        return found | incoming


class S3Room:
    """Buckets and identities of its own on a running MinIO, made by the product's own set-up."""

    kind = "minio"

    def __init__(self, minio: Minio, name: str):
        self.settings = s3_settings(minio, name)
        set_up(self.settings, minio.access_key, minio.secret_key, POLICIES)
        self.store: Store = S3Store(self.settings)
        self.admin = client(minio.endpoint, minio.access_key, minio.secret_key)

    def everything(self) -> Everything:
        found: Everything = {}
        bucket = self.settings.s3_evidence_bucket
        for each in self.admin.list_objects(bucket, recursive=True, include_version=True):
            assert each.object_name is not None
            answer = self.admin.get_object(bucket, each.object_name, version_id=each.version_id)
            try:
                found.setdefault(each.object_name, []).append(answer.read(decode_content=False))
            finally:
                answer.close()
                answer.release_conn()
        return found


def client(endpoint: str, access_key: str, secret_key: str) -> Client:
    return Client(endpoint=endpoint, access_key=access_key, secret_key=secret_key, secure=False, region="us-east-1")


def s3_settings(minio: Minio, name: str, **changes: Any) -> Settings:
    given: dict[str, Any] = {
        "dsn": SecretStr("postgresql+asyncpg://nobody@/nothing"),
        "keys": Path("/nonexistent"),
        "keys_passphrase_file": Path("/nonexistent"),
        "origin": "quancheng.test/00000000",
        "api_key": "A" * 43 + "=",
        "store": "s3",
        "s3_endpoint": minio.endpoint,
        "s3_secure": False,
        "s3_evidence_bucket": f"{name}-evidence",
        "s3_log_bucket": f"{name}-log",
        "s3_staging_bucket": f"{name}-staging",
        "s3_put_access_key": f"{name}-put",
        "s3_put_secret_key": SecretStr(secrets.token_urlsafe(30)),
        "s3_keep_access_key": f"{name}-keep",
        "s3_keep_secret_key": SecretStr(secrets.token_urlsafe(30)),
        "s3_probe_bucket": f"{name}-probe",
        "s3_probe_access_key": f"{name}-probe",
        "s3_probe_secret_key": SecretStr(secrets.token_urlsafe(30)),
    }
    return Settings(**(given | changes))


@contextmanager
def serve(app: FastAPI, port: int) -> Iterator[str]:
    """A live server in a thread; its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", server_header=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 10
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        assert server.started
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def local_room(folder: Path) -> LocalRoom:
    return LocalRoom(folder / "store", free_ports(1))
