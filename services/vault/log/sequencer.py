"""From an act to an index in a signed checkpoint.

An act of the vault enters `log_pending` in the act's own transaction (`enter`); acts of the api are appended by
their ids (`appending.py`). *Sequenced* means: the statement has an index and its leaf is under a signed checkpoint,
durably, in this database. *Published* (`publish.py`) means: the tiles, the sealed statements and that
checkpoint lie in the store. A process may die between any two: pending rows wait, publishing is repeated.

Only the right edge of the tree is read and written: the cost of a batch does not grow with the log.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    LargeBinary,
    Uuid,
    any_,
    bindparam,
    delete,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault import errors
from services.vault.contract import wire
from services.vault.contract.verify import leaf_hash
from services.vault.keyring import Keyring
from services.vault.log import statement, tree
from services.vault.models import LogEntry, LogHead, LogPending, LogTile

_BATCH = 1000
_APPEND_SECONDS = 10.0
_PUBLISH_SECONDS = 20.0
_LOOK_SECONDS = 0.25
_RECENT = 4 * _BATCH
"""Acts whose indexes this process remembers for who waits for them; the others are looked up."""

# One array a column: rows by the thousand cost no more than their bytes.
_ENTRIES = text(
    "INSERT INTO vault.log_entries (position, act, leaf, salt, statement)"
    " SELECT * FROM unnest(:positions, :acts, :leaves, :salts, :statements)"
).bindparams(
    bindparam("positions", type_=ARRAY(BigInteger)),
    bindparam("acts", type_=ARRAY(Uuid)),
    bindparam("leaves", type_=ARRAY(LargeBinary)),
    bindparam("salts", type_=ARRAY(LargeBinary)),
    bindparam("statements", type_=ARRAY(LargeBinary)),
)


async def enter(db: AsyncConnection, act: UUID, said: bytes) -> None:
    """Let a statement wait for its index, in the transaction of the act it tells of."""
    await db.execute(insert(LogPending).values(act=act, statement=said, salt=secrets.token_bytes(32)))


class Sequencer:
    """Any number may run; the lock on the head's row lets one at a time give indexes."""

    def __init__(self, engine: AsyncEngine, keys: Keyring):
        self._engine, self._keys = engine, keys
        self._poked = asyncio.Event()
        self._moved = asyncio.Condition()
        self._recent: dict[UUID, int] = {}

    def poke(self) -> None:
        """Something was entered: sequence soon instead of at the next round."""
        self._poked.set()

    async def wait_for_work(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._poked.wait(), seconds)
        except TimeoutError:
            return
        finally:
            self._poked.clear()

    async def wait_for_growth(self, seconds: float) -> None:
        """Until this process has sequenced something, or `seconds` have passed."""
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait()
        except TimeoutError:
            return

    async def settled(self, act: UUID) -> wire.Appended:
        """Wait until this act has its index. Raises LogUnavailable after ten seconds: ask again."""
        index = (await self.settled_all([act]))[act]
        async with self._engine.connect() as db:
            size = await db.scalar(select(col(LogHead.size)))
        return wire.Appended(act=act, index=index, tree_size=size or 0)

    async def settled_all(self, acts: Sequence[UUID]) -> dict[UUID, int]:
        """Wait until each of these acts has its index. Raises LogUnavailable after ten seconds: ask again.

        What this process sequences is told to who waits for it; the database is asked before, and then only
        for what another process may have sequenced."""
        deadline = asyncio.get_running_loop().time() + _APPEND_SECONDS
        missing, found = set(acts), dict[UUID, int]()
        while missing:
            if asyncio.get_running_loop().time() > deadline:
                raise errors.LogUnavailable
            self.poke()
            async with self._engine.connect() as db:
                query = select(col(LogEntry.act), col(LogEntry.position)).where(among(LogEntry.act, missing))
                found |= {row.act: row.position for row in await db.execute(query)}
            missing -= found.keys()
            if missing and await self._sequenced_here(missing):
                found |= {act: self._recent[act] for act in missing}
                break
        return found

    async def published(self, act: UUID) -> None:
        """Wait until the store tells of this act, whatever becomes of the database. Raises LogUnavailable where it
        has no index in ten seconds, NotPublishedYet where publishing has not come so far in twenty more."""
        index = (await self.settled_all([act]))[act]
        deadline = asyncio.get_running_loop().time() + _PUBLISH_SECONDS
        while True:
            async with self._engine.connect() as db:
                if (await db.scalar(select(col(LogHead.published_size))) or 0) > index:
                    return
            if asyncio.get_running_loop().time() > deadline:
                raise errors.NotPublishedYet
            await asyncio.sleep(_LOOK_SECONDS)

    async def _sequenced_here(self, acts: set[UUID]) -> bool:
        """Whether this process has sequenced them all within `_LOOK_SECONDS`."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS), self._moved:
                await self._moved.wait_for(lambda: acts <= self._recent.keys())
        except TimeoutError:
            return False
        return True

    async def sequence(self) -> int:
        """One batch in one short transaction: lock the head, give indexes, sign, move the head.
        Returns how many statements were sequenced. Raises SigningStopped where the log's key is not to be had."""
        return await self._keys.signed(self._sequence)

    async def _sequence(self) -> int:
        async with self._engine.begin() as db:
            head = (await db.execute(select(LogHead).with_for_update())).one()
            batch = await _take(db)
            if batch:
                await self._integrate(db, head.size, batch)
        if batch:
            self._recent |= {row.act: head.size + i for i, row in enumerate(batch)}
            for act in list(islice(self._recent, max(0, len(self._recent) - _RECENT))):
                del self._recent[act]
            async with self._moved:
                self._moved.notify_all()
        return len(batch)

    async def _integrate(self, db: AsyncConnection, size: int, batch: list[Any]) -> None:
        leaves = [statement.leaf_data(row.salt, row.statement) for row in batch]
        values = {
            "positions": list(range(size, size + len(batch))),
            "acts": [row.act for row in batch],
            "leaves": leaves,
            "salts": [row.salt for row in batch],
            "statements": [row.statement for row in batch],
        }
        await db.execute(_ENTRIES, values)
        tiles = await tiles_for(db, tree.right_edge(size))
        changed = tree.append(size, [leaf_hash(leaf) for leaf in leaves], tiles.__getitem__)
        for (level, number), hashes in changed.items():
            row = insert(LogTile).values(level=level, number=number, hashes=hashes)
            await db.execute(
                row.on_conflict_do_update(index_elements=["level", "number"], set_={"hashes": row.excluded.hashes})
            )
        tiles |= changed
        new_size = size + len(batch)
        root = tree.root(new_size, tiles.__getitem__)
        own = self._keys.keys
        checkpoint = own.checkpoint(new_size, root)
        await self._keys.hold(db, "log", own.log_key_ids)
        await db.execute(update(LogHead).values(size=new_size, root=root, checkpoint=checkpoint))

    async def position(self, act: UUID) -> int:
        """The index of an act. Raises NoSuchStatement where it has none yet."""
        async with self._engine.connect() as db:
            found = await db.scalar(select(col(LogEntry.position)).where(col(LogEntry.act) == act))
        if found is None:
            raise errors.NoSuchStatement
        return found

    async def proof(self, act: UUID, *, size: int, checkpoint: str) -> wire.LogProof:
        """The C2SP proof of one act in the checkpoint of this size, which must hold it."""
        async with self._engine.connect() as db:
            entry = (await db.execute(select(LogEntry).where(col(LogEntry.act) == act))).one_or_none()
            if entry is None:
                raise errors.NoSuchStatement
            needed = tree.right_edge(size) | tree.path(entry.position)
            tiles = await tiles_for(db, needed)
        hashes = tree.inclusion_proof(entry.position, size, tiles.__getitem__)
        proof = statement.proof_text(entry.position, hashes, checkpoint, entry.salt, entry.statement)
        return wire.LogProof(act=act, index=entry.position, statement=json.loads(entry.statement), proof=proof)


async def tiles_for(db: AsyncConnection, places: set[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """The tiles that exist among `places`; an empty one stands for each that does not."""
    found = await db.execute(select(LogTile).where(tuple_(col(LogTile.level), col(LogTile.number)).in_(places)))
    return dict.fromkeys(places, b"") | {(row.level, row.number): row.hashes for row in found}


async def _take(db: AsyncConnection) -> list[Any]:
    oldest = select(col(LogPending.place)).order_by(col(LogPending.place)).limit(_BATCH).scalar_subquery()
    taken = delete(LogPending).where(col(LogPending.place).in_(oldest)).returning(LogPending)
    rows = sorted((await db.execute(taken)).all(), key=lambda row: row.place)
    # An act that was appended again while it was being sequenced is pending a second time.
    acts = [row.act for row in rows]
    done = set(await db.scalars(select(col(LogEntry.act)).where(among(LogEntry.act, acts)))) if rows else set()
    return [row for row in rows if row.act not in done]


def among(column: Any, acts: Collection[UUID]) -> ColumnElement[bool]:
    """One of these acts, as one parameter: the statement's text, and its plan, do not depend on how many."""
    return col(column) == any_(literal(list(acts), ARRAY(Uuid)))
