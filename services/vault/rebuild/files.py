"""Step 5 of a rebuild: stamped checkpoints with their tokens, and the renewals of the log's own files."""

from __future__ import annotations

import asyncio
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault.contract import verify
from services.vault.models import AuthorityRecord, KeptFile, LogCheckpoint, Timestamp
from services.vault.stores.port import Store, StoredName, StoredObject

PREFIXES = ("statements/", "timestamps/", "log/")
_TOKEN = re.compile(r"timestamps/(\d{12})\.tsr", re.ASCII)
_AUTHORITY = re.compile(r"timestamps/authorities/([0-9a-f]{64})\.pem", re.ASCII)
_AT_ONCE = 16


async def kept(engine: AsyncEngine, head: StoredObject) -> None:
    """It is renewed from the date on that the store says."""
    told: dict[str, object] = {"version": head.version, "retain_until": head.retain_until or datetime.now(UTC)}
    told |= {"sha256": head.sha256, "size": head.size}
    row = insert(KeptFile).values(key=head.key, **told)
    async with engine.begin() as db:
        await db.execute(row.on_conflict_do_update(index_elements=["key"], set_=told))


class Files:
    """`wrong`: what lies there and cannot be read as what it should be."""

    def __init__(self, engine: AsyncEngine, store: Store, origin: str):
        self._engine, self._store, self._origin = engine, store, origin
        self._authorities: dict[str, x509.Certificate] = {}
        self.wrong: list[str] = []

    async def restore(self) -> None:
        tokens: list[StoredName] = []
        for prefix in PREFIXES:
            part: list[StoredName] = []
            async for name in self._store.list(prefix):
                if name.deleted:
                    continue
                part.append(name)
                if match := _AUTHORITY.fullmatch(name.key):
                    await self._authority(name, match[1])
                if _TOKEN.fullmatch(name.key):
                    tokens.append(name)
                if len(part) == _AT_ONCE:
                    await asyncio.gather(*map(self._keep, part))
                    part = []
            await asyncio.gather(*map(self._keep, part))
        for name in tokens:
            await self._token(name)

    async def _keep(self, name: StoredName) -> None:
        head = await self._store.head(name.key, name.version)
        if head is not None:
            await kept(self._engine, head)

    async def _authority(self, name: StoredName, tsa: str) -> None:
        data = await self._read(name.key, name.version)
        try:
            certificate = verify.load_certificate(data)
        except verify.VerificationError:
            certificate = None
        if certificate is None or verify.certificate_id(certificate) != tsa:
            self.wrong.append(f"{name.key}：不是这一时间戳机构的证书")
            return
        self._authorities[tsa] = certificate
        async with self._engine.begin() as db:
            row = insert(AuthorityRecord).values(tsa=tsa, certificate=data, since=datetime.now(UTC))
            await db.execute(row.on_conflict_do_nothing())

    async def _token(self, name: StoredName) -> None:
        stem = name.key.removesuffix(".tsr")
        token = await self._read(name.key, name.version)
        head = await self._store.head(f"{stem}.checkpoint")
        note = b"" if head is None else await self._read(head.key, head.version)
        for tsa, certificate in self._authorities.items():
            try:
                at = verify.verify_timestamp(token, note, certificate)
                checkpoint = verify.parse_checkpoint(verify.parse_note(note.decode()).text)
            except (verify.VerificationError, UnicodeDecodeError):
                continue
            await self._stamped(checkpoint.size, note, token, tsa, at)
            return
        self.wrong.append(f"{name.key}：时间戳与其检查点或机构不符")

    async def _stamped(self, size: int, note: bytes, token: bytes, tsa: str, at: datetime) -> None:
        text, _, lines = note.decode().rpartition("\n\n")
        own = [line for line in lines.splitlines() if line.startswith(f"— {self._origin} ")]
        told: dict[str, Any] = {"checkpoint": note, "digest": hashlib.sha256(note).digest()}
        told |= {"token": token, "next_try_at": None}
        told |= {"tsa": tsa, "stamped_at": at, "got_at": at, "sealed_at": at}
        # One that was asked for at a minute's end is stamped in the next one's, which may have its own.
        minute, others = at.replace(second=0, microsecond=0), select(Timestamp).where(col(Timestamp.size) != size)
        async with self._engine.begin() as db:
            plain = "\n".join([text, "", *own, ""])
            fresh = insert(LogCheckpoint).values(size=size, note=plain, at=at)
            await db.execute(fresh.on_conflict_do_nothing())
            while await db.scalar(select(others.where(col(Timestamp.minute) == minute).exists())):
                minute -= timedelta(minutes=1)
            row = insert(Timestamp).values(size=size, minute=minute, requested_at=at, tries=1, **told)
            await db.execute(row.on_conflict_do_update(index_elements=["size"], set_=told))

    async def _read(self, key: str, version: str) -> bytes:
        return b"".join([chunk async for chunk in self._store.read(key, version)])
