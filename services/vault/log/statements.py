"""The sealed statements: files of the private log among the evidence, from which the vault's rows can be made again.

A file is JSON lines, one a statement in the order of the log: `index`, `salt`, `statement`, and in `carries` what
its rows hold beyond it (the receipts of a minute, how a recording was opened, the order that custodians signed). The
last line is the receipt key's signature over all before it. The tree proves statements; the signature stands for what
they carry, and for those that no published checkpoint covers yet.

Files may overlap where a process died between two steps; they never differ.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import ARRAY, CHAR, Integer, Uuid, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault.contract.verify import VerificationError, check_signature, pae
from services.vault.contract.wire import canonical, media_told, rfc3339
from services.vault.errors import HistoryLost
from services.vault.keyring import Keyring
from services.vault.models import Custodian, Hold, LogEntry, Order, Recording
from services.vault.retention import keep
from services.vault.stores.port import Store, StoredName

STATEMENTS_TYPE = "application/vnd.quancheng.statements.v1+jsonl"
PREFIX = "statements/"
_NAME = re.compile(r"statements/(\d{12})-(\d{12})-([0-9a-f]{8})\.jsonl", re.ASCII)
_ENTRIES, _RECEIPTS = 1024, 4000
"""What one file holds at most, so that it stays a few megabytes and so does whoever writes or reads it."""
MAX_FILE_BYTES = 256 * 1024 * 1024

_TOLD = text("""
    SELECT s.recording_id, s.sequence, s.sha256, s.receipt FROM vault.segments AS s
    JOIN unnest(:recordings, :sequences, :digests) AS told(recording_id, sequence, sha256)
    USING (recording_id, sequence, sha256)
""").bindparams(
    bindparam("recordings", type_=ARRAY(Uuid)),
    bindparam("sequences", type_=ARRAY(Integer)),
    bindparam("digests", type_=ARRAY(CHAR(64))),
)


async def seal(
    engine: AsyncEngine,
    db: AsyncConnection,
    store: Store,
    keys: Keyring,
    done: int,
    upto: int,
    *,
    retention: timedelta,
) -> int:
    """Seal the file that begins with statement `done`; returns where the next one begins, at most `upto`.
    Repeatable. `db` is in autocommit: nothing is open while the store is spoken to."""
    query = select(LogEntry).where(
        col(LogEntry.position) >= done, col(LogEntry.position) < min(upto, done + _ENTRIES)
    )
    rows = _part((await db.execute(query.order_by(col(LogEntry.position)))).all())
    told = [json.loads(row.statement) for row in rows]
    lines = b"".join(
        canonical(
            {"index": row.position, "salt": row.salt.hex(), "statement": row.statement.decode()}
            | ({"carries": carries} if carries else {})
        )
        + b"\n"
        for row, carries in zip(rows, await _carried(db, told), strict=True)
    )
    end = done + len(rows)
    last, signer = await keys.signed(lambda: _signed(engine, keys, lines))
    key = f"{PREFIX}{done:012d}-{end:012d}-{signer[:8]}.jsonl"
    retain_until = (datetime.now(UTC) + retention).replace(microsecond=0)
    stored = await store.put(key, lines + last, retain_until)
    await keep(engine, stored, retain_until)
    return end


async def files(store: Store) -> AsyncIterator[tuple[int, int, StoredName]]:
    """Begin, end and name of each file, in order of their begins. Raises HistoryLost for one of another form."""
    async for stored in store.list(PREFIX):
        if stored.deleted:
            continue
        name = _NAME.fullmatch(stored.key)
        if name is None:
            raise HistoryLost(f"{stored.key} 不是可据以重建的日志文件（写于旧版本，或不属于证据库）。")
        yield int(name[1]), int(name[2]), stored


async def read(store: Store, name: StoredName, trusted: dict[str, Ed25519PublicKey] | None) -> list[dict[str, Any]]:
    """The lines of one file, without its signature, which must hold by one of the `trusted` keys; None: by
    whosever, for what the tree proves. Raises HistoryLost."""
    parts, size = [], 0
    async for chunk in store.read(name.key, name.version):
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise HistoryLost(f"{name.key} 过大。")
        parts.append(chunk)
    lines, _, last = b"".join(parts).rstrip(b"\n").rpartition(b"\n")
    lines += b"\n"
    try:
        told = json.loads(last)
        if trusted is not None:
            signature = base64.b64decode(told["signature"], validate=True)
            check_signature(trusted[told["by"]], signature, _message(lines))
        return [dict(json.loads(line)) for line in lines.splitlines()]
    except (ValueError, KeyError, TypeError, VerificationError) as error:
        raise HistoryLost(f"{name.key} 的签名不成立，或文件已损坏：{error!r}") from error


async def _signed(engine: AsyncEngine, keys: Keyring, lines: bytes) -> tuple[bytes, str]:
    """The last line, and the id of the key that signed: current after all that the file tells of was signed."""
    own = keys.keys
    signature = base64.b64encode(own.sign_encoded(_message(lines))).decode()
    async with engine.begin() as db:
        await keys.hold(db, "receipt", [own.receipt_key_id])
    return canonical({"by": own.receipt_key_id, "signature": signature}) + b"\n", own.receipt_key_id


def _message(lines: bytes) -> bytes:
    return pae(STATEMENTS_TYPE, lines)


def _part(rows: Sequence[Any]) -> list[Any]:
    """The first of these that fit into one file; at least one."""
    receipts, part = 0, list[Any]()
    for row in rows:
        receipts += row.statement.count(b'"sha256"')
        if part and receipts > _RECEIPTS:
            break
        part.append(row)
    return part


async def _carried(db: AsyncConnection, told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each statement what it carries."""
    receipts = await _receipts(db, {name for said in told for name in _segments(said)})
    openings = await _openings(db, {each for said in told for each in _recordings(said)})
    orders = await _by(db, Order, {UUID(said["order"]) for said in told if said.get("order")})
    reasons = await _by(db, Hold, {UUID(said["hold"]) for said in told if said["kind"] == "hold"})
    names = await _names(db, {said["key_id"] for said in told if said["kind"] == "custodian"})
    carried = []
    for said in told:
        carries: dict[str, Any] = {}
        if recordings := sorted(_recordings(said) & openings.keys()):
            carries["openings"] = [openings[each] for each in recordings]
        if segments := [receipts[name] for name in _segments(said) if name in receipts]:
            carries["receipts"] = segments
        if said.get("order"):
            order = orders[UUID(said["order"])]
            carries["order"] = {"envelope": order.envelope, "custodians": order.custodians, "at": rfc3339(order.at)}
        if said["kind"] == "hold":
            carries["reason"] = reasons[UUID(said["hold"])].reason
        if said["kind"] == "custodian":
            carries["name"] = names[said["key_id"]]
        carried.append(carries)
    return carried


def _recordings(said: dict[str, Any]) -> set[UUID]:
    match said["kind"]:
        case "segments" | "term":
            return {UUID(said["recording"])}
        case "series":
            return {UUID(said["series"])}
        case "hold":
            return {UUID(each) for each in said["recordings"]}
    return set()


def _segments(said: dict[str, Any]) -> list[tuple[UUID, int, str]]:
    match said["kind"]:
        case "segments":
            recording = UUID(said["recording"])
            return [(recording, each["sequence"], each["sha256"]) for each in said["segments"]]
        case "series":
            return [(UUID(said["series"]), said["version"], said["sha256"])]
    return []


async def _receipts(
    db: AsyncConnection, names: Iterable[tuple[UUID, int, str]]
) -> dict[tuple[UUID, int, str], dict[str, Any]]:
    ordered = sorted(names)
    if not ordered:
        return {}
    values = {
        "recordings": [each[0] for each in ordered],
        "sequences": [each[1] for each in ordered],
        "digests": [each[2] for each in ordered],
    }
    return {
        (row.recording_id, row.sequence, row.sha256): row.receipt
        for row in await db.execute(_TOLD, values)
        if row.receipt is not None
    }


async def _openings(db: AsyncConnection, recordings: set[UUID]) -> dict[UUID, dict[str, Any]]:
    found = await _by(db, Recording, recordings)
    return {
        each: {
            "id": str(row.id),
            "kind": row.kind,
            "source": str(row.source),
            "key_id": row.key_id,
            "started_at": rfc3339(row.started_at),
            "opened_at": rfc3339(row.opened_at),
            **media_told(row.format, row.remuxed_by),
        }
        for each, row in found.items()
    }


async def _by(db: AsyncConnection, table: Any, ids: set[UUID]) -> dict[UUID, Any]:
    if not ids:
        return {}
    return {row.id: row for row in await db.execute(select(table).where(col(table.id).in_(ids)))}


async def _names(db: AsyncConnection, keys: set[str]) -> dict[str, str]:
    query = select(col(Custodian.key_id), col(Custodian.name)).where(col(Custodian.key_id).in_(keys))
    return {row.key_id: row.name for row in await db.execute(query)} if keys else {}
