"""Trusted time: a token of an RFC 3161 authority on one checkpoint a minute, while the log grows.

A token on a checkpoint shows that everything the log held then existed by the token's time. The steps, each
repeated from the rows after a crash:

1. The newest published checkpoint is queued, if it is newer than the last one queued and this minute has none.
2. The authorities are asked in the order of the settings, until one gives a token that verifies under its
   pinned certificate, by the library and by the verifier that exports carry. While none does, the newest queued
   checkpoint is tried again after a while that doubles up to an hour.
3. The token is recorded. Older checkpoints that still wait are let go: this token says of their entries what
   theirs would have.
4. Checkpoint, token and certificate are sealed among the evidence.

When to ask, and which minute it is, the database's clock says: ours may be stepped while this goes on.

No authority is asked for its certificate: the pinned one is what a token is held against.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)
from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault.contract import verify
from services.vault.contract.wire import StampState
from services.vault.errors import CertificateFault
from services.vault.log import checkpoints
from services.vault.models import AuthorityRecord, LogCheckpoint, Timestamp
from services.vault.retention import keep
from services.vault.settings import Settings
from services.vault.stores.port import Store

_log = logging.getLogger("quancheng.vault.timestamps")
_ASK_SECONDS = 10.0
_LEASE = timedelta(minutes=2)
"""How long a queued checkpoint is another process's, which may have died."""
_LONGEST_PAUSE = 3600
_TOKEN_BYTES = 64 * 1024
_NEWEST_FIRST = col(Timestamp.size).desc()


@dataclass(frozen=True)
class Authority:
    """Where it is asked, its own certificate, and those above it up to a root."""

    url: str
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]

    @property
    def id(self) -> str:
        return verify.certificate_id(self.certificate)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


class NoToken(Exception):
    """An authority gave no token that holds; the message says why."""


def load_authorities(settings: Settings) -> tuple[Authority, ...]:
    """The authorities of the settings with their pinned certificates. Raises CertificateFault."""
    found = []
    for one in settings.tsas:
        try:
            certificates = x509.load_pem_x509_certificates(one.certificate.read_bytes())
        except OSError as error:
            raise CertificateFault(f"时间戳机构证书 {one.certificate} 无法读取：{error.strerror}。") from error
        except ValueError as error:
            raise CertificateFault(f"时间戳机构证书 {one.certificate} 不是有效的 PEM 证书。") from error
        # The library that checks tokens builds a whole chain, up to a certificate that signed itself.
        if certificates[-1].issuer != certificates[-1].subject:
            raise CertificateFault(
                f"时间戳机构证书 {one.certificate} 应依次包含机构证书及其上级，直至自签名的根证书。"
            )
        found.append(Authority(one.url, certificates[0], tuple(certificates[1:])))
    return tuple(found)


class Timestamper:
    def __init__(self, engine: AsyncEngine, store: Store, authorities: Sequence[Authority], *, retention: timedelta):
        self.authorities = {authority.id: authority for authority in authorities}
        self._engine, self._store, self._retention = engine, store, retention
        self._http = httpx.AsyncClient(timeout=_ASK_SECONDS)

    async def stop(self) -> None:
        await self._http.aclose()

    async def run(self) -> None:
        """One round of all steps; does nothing where no authority is set."""
        if self.authorities:
            await self._queue()
            await self._obtain()
        await self._seal()

    async def covering(self, positions: Iterable[int], size: int) -> list[Any]:
        """The rows whose tokens matter for an export under a checkpoint of `size`: for each position the oldest
        that holds it, which says most of its age, and the newest of all."""
        had = self._had().where(col(Timestamp.size) <= size)
        found: dict[int, Any] = {}
        async with self._engine.connect() as db:
            for position in sorted(set(positions)):
                oldest = had.where(col(Timestamp.size) > position).order_by(col(Timestamp.size)).limit(1)
                for row in await db.execute(oldest):
                    found[row.size] = row
            if found:
                for row in await db.execute(had.order_by(_NEWEST_FIRST).limit(1)):
                    found[row.size] = row
        return [row for _, row in sorted(found.items())]

    async def state(self) -> StampState:
        waiting = select(func.min(Timestamp.requested_at)).where(
            col(Timestamp.token).is_(None), col(Timestamp.next_try_at).is_not(None)
        )
        had = self._had().order_by(_NEWEST_FIRST).limit(1)
        async with self._engine.connect() as db:
            since = await db.scalar(waiting)
            last = (await db.execute(had)).one_or_none()
        return StampState(
            authorities=[one.url for one in self.authorities.values()],
            size=last.size if last else None,
            stamped_at=last.stamped_at if last else None,
            got_at=last.got_at if last else None,
            waiting_since=since,
        )

    @staticmethod
    def _had() -> Select[*tuple[Any, ...]]:
        """The rows with a token, each with the certificate that it is by."""
        query: Select[*tuple[Any, ...]] = select(Timestamp, col(AuthorityRecord.certificate))
        query = query.join(AuthorityRecord, col(AuthorityRecord.tsa) == col(Timestamp.tsa))
        return query.where(col(Timestamp.token).is_not(None))

    async def _queue(self) -> None:
        # 1. One checkpoint a minute, and only a newer one.
        public = select(col(LogCheckpoint.size)).where(col(LogCheckpoint.published_lines).is_not(None))
        async with self._engine.begin() as db:
            newest = await db.scalar(public.order_by(col(LogCheckpoint.size).desc()).limit(1))
            last = await db.scalar(select(func.max(Timestamp.size)))
            if newest is None or (last is not None and last >= newest):
                return
            note = (await checkpoints.whole(db, newest)).encode()
            now = await _clock(db)
            row = {
                "size": newest,
                "minute": now.replace(second=0, microsecond=0),
                "checkpoint": note,
                "digest": hashlib.sha256(note).digest(),
                "requested_at": now,
                "tries": 0,
                "next_try_at": now,
            }
            await db.execute(insert(Timestamp).values(row).on_conflict_do_nothing())

    async def _obtain(self) -> None:
        waits = col(Timestamp.token).is_(None) & col(Timestamp.next_try_at).is_not(None)
        async with self._engine.begin() as db:
            query = select(Timestamp).where(waits).order_by(_NEWEST_FIRST).limit(1)
            row = (await db.execute(query.with_for_update(skip_locked=True))).one_or_none()
            now = await _clock(db)
            if row is None or row.next_try_at > now:
                return
            this, tries = col(Timestamp.size) == row.size, row.tries + 1
            await db.execute(update(Timestamp).where(this).values(tries=tries, next_try_at=now + _LEASE))
        # 2. Nothing is held open while the authorities are asked.
        found = await self._ask_all(row.checkpoint)
        async with self._engine.begin() as db:
            got_at = await _clock(db)
            if found is None:
                again = got_at + timedelta(seconds=min(2 ** min(tries, 20), _LONGEST_PAUSE))
                await db.execute(update(Timestamp).where(this, waits).values(next_try_at=again))
                return
            # 3. The token, and what it stands for as well.
            authority, token, stamped_at = found
            pinned = insert(AuthorityRecord).values(tsa=authority.id, certificate=authority.pem, since=got_at)
            await db.execute(pinned.on_conflict_do_nothing())
            values = {"token": token, "tsa": authority.id, "stamped_at": stamped_at, "got_at": got_at}
            await db.execute(update(Timestamp).where(this, waits).values(**values, next_try_at=None))
            older = col(Timestamp.size) < row.size
            await db.execute(update(Timestamp).where(older, waits).values(next_try_at=None))

    async def _seal(self) -> None:
        # 4. Among the evidence.
        query = self._had().where(col(Timestamp.sealed_at).is_(None))
        async with self._engine.connect() as db:
            rows = (await db.execute(query.order_by(col(Timestamp.size)).limit(10))).all()
        for row in rows:
            retain_until = (datetime.now(UTC) + self._retention).replace(microsecond=0)
            stem = f"timestamps/{row.size:012d}"
            for key, data in (
                (f"{stem}.checkpoint", row.checkpoint),
                (f"{stem}.tsr", row.token),
                (f"timestamps/authorities/{row.tsa}.pem", row.certificate),
            ):
                stored = await self._store.put(key, data, retain_until)
                await keep(self._engine, stored, retain_until)
            async with self._engine.begin() as db:
                this = col(Timestamp.size) == row.size
                await db.execute(update(Timestamp).where(this).values(sealed_at=datetime.now(UTC)))

    async def _ask_all(self, data: bytes) -> tuple[Authority, bytes, datetime] | None:
        for authority in self.authorities.values():
            try:
                return authority, *(await self._ask(authority, data))
            except NoToken as error:
                _log.warning("时间戳机构 %s 没有给出有效的时间戳：%s", authority.url, error)
        return None

    async def _ask(self, authority: Authority, data: bytes) -> tuple[bytes, datetime]:
        builder = TimestampRequestBuilder(data, HashAlgorithm.SHA256, nonce=True, cert_req=False)
        request = builder.build()
        answer = await self._post(authority.url, request.as_bytes())
        *between, root = authority.chain or (authority.certificate,)
        verifier = VerifierBuilder(
            tsa_certificate=authority.certificate, intermediates=between, roots=[root], nonce=request.nonce
        )
        try:
            verifier.build().verify_message(decode_timestamp_response(answer), data)
            return answer, verify.verify_timestamp(answer, data, authority.certificate)
        except (VerificationError, verify.VerificationError, ValueError) as error:
            raise NoToken(str(error)) from error

    async def _post(self, url: str, body: bytes) -> bytes:
        headers = {"content-type": "application/timestamp-query"}
        try:
            async with self._http.stream("POST", url, content=body, headers=headers) as response:
                answer = b""
                async for chunk in response.aiter_bytes():
                    answer += chunk
                    if len(answer) > _TOKEN_BYTES:
                        raise NoToken("the answer is too long")
        except httpx.HTTPError as error:
            raise NoToken(f"{type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise NoToken(f"status {response.status_code}")
        return answer


async def _clock(db: AsyncConnection) -> datetime:
    now: datetime = (await db.execute(select(func.now()))).scalar_one()
    return now
