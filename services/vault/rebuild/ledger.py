"""Steps 1 and 2 of a rebuild: the log's entries and its tree, held against what was published."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault.contract.verify import Checkpoint, VerificationError, key_id, leaf_hash, verify_note_by_any
from services.vault.errors import HistoryLost
from services.vault.log import statement, statements, tree
from services.vault.log.note import vkey
from services.vault.log.publish import CHECKPOINT
from services.vault.log.sequencer import tiles_for
from services.vault.models import LogEntry, LogTile
from services.vault.stores.port import Store

_BATCH = 4096
Trusted = dict[str, Ed25519PublicKey]

_FORKED = text("""
    INSERT INTO vault.log_pending (act, statement, salt)
    SELECT act, statement, salt FROM vault.log_entries WHERE position >= :first ORDER BY position
    ON CONFLICT (act) DO NOTHING
""")


class Ledger:
    """`size` statements stand without a gap; the first `published` of them are proven by the public checkpoint."""

    def __init__(self, engine: AsyncEngine, store: Store, origin: str, lying: Mapping[str, Sequence[bytes]]):
        """`lying`: by purpose, the public keys of the files that lie in the vault's folder."""
        self._engine, self._store = engine, store
        self._vkeys = [vkey(origin, public) for public in lying["log"]]
        self.trusted: Trusted = {key_id(public): _key(public) for public in lying["receipt"]}
        """The receipt keys that the log tells of, and those that lie there. What is told after a key's revocation
        is not believed of it (`acts.py` takes it out)."""
        self.ever: Trusted = dict(self.trusted)
        """Those that were revoked too: what the log told of before stays good."""
        self.size = self.forked = 0
        self.published: Checkpoint
        self.root = b""

    async def restore(self) -> None:
        """Raises HistoryLost: the log is not whole, or not the one that was published. No row that a vault runs by
        has changed then but entries, which are told again by the next run."""
        await self._read_published()
        # 1. The entries.
        async for lines in self.lines(check=False):
            await self._enter(lines)
        async with self._engine.connect() as db:
            self.size = await db.scalar(select(func.count()).select_from(LogEntry)) or 0
        if self.size < self.published.size:
            raise HistoryLost(
                f"存储中密封的日志陈述只有 {self.size} 条，少于已公布的 {self.published.size} 条：存储中有文件丢失。"
            )
        # 2. The tree.
        await self._grow()

    async def is_prefix_of(self, size: int) -> bool:
        """Whether the published tree is that of the first entries of the database, whose head is at `size`."""
        await self._read_published()
        if size < self.published.size:
            return False
        async with self._engine.connect() as db:
            edge = await tiles_for(db, tree.right_edge(self.published.size))
        try:
            return tree.root(self.published.size, edge.__getitem__) == self.published.root
        except tree.TileShort:
            return False

    async def _read_published(self) -> None:
        note = await self._store.published(CHECKPOINT)
        if note is None:
            raise HistoryLost("存储中没有已公布的日志检查点：没有可据以重建的内容，或存储桶配置有误。")
        try:
            self.published = verify_note_by_any(note.decode(), self._vkeys)
        except (VerificationError, UnicodeDecodeError) as error:
            raise HistoryLost(f"存储中的日志检查点不是本证据库签署的：{error}") from error

    async def lines(self, *, check: bool = True) -> AsyncIterator[list[dict[str, Any]]]:
        """The statements file by file, each once and in order. With `check` each file's signature must hold by a
        key that the log tells of; those beyond the published checkpoint are always held to that."""
        following = 0
        async for begin, end, name in statements.files(self._store):
            if end <= following:
                continue
            if begin > following:
                raise HistoryLost(f"存储中缺少日志陈述 {following} 至 {begin - 1}（其后为 {name.key}）。")
            trusted = self.trusted if check or end > self.published.size else None
            lines = await statements.read(self._store, name, trusted)
            if [line.get("index") for line in lines] != list(range(begin, end)):
                raise HistoryLost(f"{name.key} 的内容与其名称不符。")
            yield lines[following - begin :]
            following = end

    async def _enter(self, lines: list[dict[str, Any]]) -> None:
        rows = [_entry(line) for line in lines]
        for row in rows:
            self._trust(row)
        first, last = rows[0]["position"], rows[-1]["position"]
        here = col(LogEntry.position).between(first, last)
        async with self._engine.begin() as db:
            known = await db.execute(select(col(LogEntry.position), col(LogEntry.leaf)).where(here))
            leaves = {row.position: row.leaf for row in known}
            other = [row["position"] for row in rows if leaves.get(row["position"], row["leaf"]) != row["leaf"]]
            if other:
                # They were signed by a vault that ran on another history: told again, under other indexes.
                moved = await db.execute(_FORKED, {"first": other[0]})
                self.forked += moved.rowcount
                await db.execute(delete(LogEntry).where(col(LogEntry.position) >= other[0]))
                leaves = {position: leaf for position, leaf in leaves.items() if position < other[0]}
            if fresh := [row for row in rows if row["position"] not in leaves]:
                await db.execute(insert(LogEntry), fresh)

    def _trust(self, row: dict[str, Any]) -> None:
        if row["position"] < self.published.size and b'"kind":"key"' in row["statement"]:
            said = json.loads(row["statement"])
            if said["kind"] == "key" and said["purpose"] == "receipt":
                key = _key(base64.b64decode(said["public_key"]))
                self.trusted[said["key_id"]] = self.ever[said["key_id"]] = key

    async def _grow(self) -> None:
        """The tiles, all anew; at the published size the root must be the published one."""
        async with self._engine.begin() as db:
            await db.execute(delete(LogTile))
            done = 0
            for edge in (self.published.size, self.size):
                while done < edge:
                    done = await _append(db, done, min(edge, done + _BATCH))
                tiles = await tiles_for(db, tree.right_edge(edge))
                self.root = tree.root(edge, tiles.__getitem__)
                if edge == self.published.size:
                    self._same_root(self.root)

    def _same_root(self, root: bytes) -> None:
        if root != self.published.root:
            raise HistoryLost("存储中密封的日志陈述与已公布的检查点不一致：其中有陈述被改动，拒绝重建。")


async def _append(db: AsyncConnection, done: int, upto: int) -> int:
    entries = select(col(LogEntry.leaf)).where(col(LogEntry.position) >= done, col(LogEntry.position) < upto)
    leaves = (await db.scalars(entries.order_by(col(LogEntry.position)))).all()
    if len(leaves) != upto - done:
        raise HistoryLost(f"日志条目 {done} 至 {upto - 1} 不完整。")
    edge = await tiles_for(db, tree.right_edge(done))
    changed = tree.append(done, [leaf_hash(leaf) for leaf in leaves], edge.__getitem__)
    rows = [{"level": level, "number": number, "hashes": hashes} for (level, number), hashes in changed.items()]
    fresh = insert(LogTile)
    names = ["level", "number"]
    await db.execute(fresh.on_conflict_do_update(index_elements=names, set_={"hashes": fresh.excluded.hashes}), rows)
    return upto


def _key(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)


def _entry(line: dict[str, Any]) -> dict[str, Any]:
    try:
        said, salt = line["statement"].encode(), bytes.fromhex(line["salt"])
        act = json.loads(said)["act"]
    except (ValueError, KeyError, TypeError) as error:
        raise HistoryLost(f"存储中的日志陈述 {line['index']} 已损坏：{error}") from error
    leaf = statement.leaf_data(salt, said)
    return {"position": line["index"], "act": act, "leaf": leaf, "salt": salt, "statement": said}
