"""Published checkpoints and their cosignatures: which witness gave which, and which checkpoint meets the policy.

`cosign` is step 3 of publishing. All that it learns is written before the checkpoint is published, and what is
written is not asked for again, so it may be repeated at any restart.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault.contract import wire
from services.vault.log import tree
from services.vault.log.sequencer import tiles_for
from services.vault.log.witnesses import (
    AHEAD,
    INCONSISTENT,
    LONGEST_PAUSE,
    Away,
    Policy,
    Witnesses,
    name_of,
    pause,
)
from services.vault.models import Cosignature, LogCheckpoint, LogHead, Rebuild, WitnessRecord
from services.vault.settings import Witness

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 3.0
"""What publishing itself may take, beside the time that witnesses have."""


class Checkpoints:
    def __init__(self, engine: AsyncEngine, policy: Policy, *, seconds: float):
        self.policy = policy
        self._engine, self._seconds = engine, seconds
        self._witnesses = Witnesses(seconds)

    async def stop(self) -> None:
        await self._witnesses.stop()

    async def cosign(self, size: int, note: str) -> tuple[str, int]:
        """Ask the witnesses that have not cosigned this checkpoint and are not left alone just now.

        Returns the note with every cosignature there is, and their number. Never raises for a witness.
        """
        known = {name_of(witness): witness for witness in self.policy.witnesses}
        async with self._engine.begin() as db:
            fresh = insert(LogCheckpoint).values(size=size, note=note, at=datetime.now(UTC))
            await db.execute(fresh.on_conflict_do_nothing())
            have = set(await db.scalars(select(col(Cosignature.witness)).where(col(Cosignature.size) == size)))
            records = {row.witness: row for row in await db.execute(select(WitnessRecord))}
        now = datetime.now(UTC)
        due = [
            (name, witness)
            for name, witness in known.items()
            if name not in have and (name not in records or not _left_alone(records[name].next_try_at, now))
        ]
        sizes = {name: records[name].size if name in records else 0 for name, _ in due}
        answers = await asyncio.gather(*(self._ask(witness, size, note, sizes[name]) for name, witness in due))
        async with self._engine.begin() as db:
            for (name, _), answer in zip(due, answers, strict=True):
                before = records.get(name)
                if isinstance(answer, Away):
                    since = before.away_since if before and before.away_since else now
                    tries = before.tries + 1 if before else 1
                    values = {"size": sizes[name], "away_since": since, "reason": str(answer), "tries": tries}
                    await _record(db, name, values | {"next_try_at": datetime.now(UTC) + pause(tries)})
                    continue
                line, at = answer
                row = insert(Cosignature).values(size=size, witness=name, line=line, at=at)
                await db.execute(row.on_conflict_do_nothing())
                have.add(name)
                values = {"size": size, "away_since": None, "reason": None, "tries": 0, "next_try_at": now}
                await _record(db, name, values)
            if len(have & known.keys()) >= self.policy.need:
                this = (col(LogCheckpoint.size) == size) & col(LogCheckpoint.policy).is_distinct_from(self.policy.id)
                await db.execute(update(LogCheckpoint).where(this).values(policy=self.policy.id))
            return await whole(db, size), len(have)

    async def is_public(self, size: int, lines: int) -> bool:
        """Whether the public copy of this checkpoint bears all of so many cosignatures."""
        query = select(col(LogCheckpoint.published_lines)).where(col(LogCheckpoint.size) == size)
        async with self._engine.connect() as db:
            return bool(await db.scalar(query) == lines)

    async def made_public(self, size: int, lines: int) -> None:
        async with self._engine.begin() as db:
            this = col(LogCheckpoint.size) == size
            await db.execute(update(LogCheckpoint).where(this).values(published_lines=lines))

    async def best(self, upto: int) -> tuple[int, str]:
        """Size and note of the checkpoint for a proof of an entry below `upto`: the newest that meets the policy
        where the entry is in it, else the newest signed one."""
        async with self._engine.connect() as db:
            return await self._meeting(db, upto) or await _head(db)

    async def covering(self, upto: int) -> tuple[int, str]:
        """As `best`, for an export: waits a bounded time for the policy to be met, and takes what there is then."""
        deadline = asyncio.get_running_loop().time() + self._seconds + _GRACE_SECONDS
        while True:
            async with self._engine.connect() as db:
                if found := await self._meeting(db, upto):
                    return found
                if asyncio.get_running_loop().time() > deadline:
                    query = select(col(LogCheckpoint.size)).where(col(LogCheckpoint.published_lines).is_not(None))
                    newest = await db.scalar(query.order_by(col(LogCheckpoint.size).desc()).limit(1))
                    if newest is not None and newest >= upto:
                        return newest, await whole(db, newest)
                    return await _head(db)
            await asyncio.sleep(_POLL_SECONDS)

    async def consistency(self, old: int, size: int) -> list[bytes]:
        """The proof that the tree of `old` entries is a prefix of that of `size`; empty where there is nothing
        to prove."""
        if old in {0, size}:
            return []
        async with self._engine.connect() as db:
            tiles = await tiles_for(db, tree.path(old - 1) | tree.right_edge(size))
        return tree.consistency_proof(old, size, tiles.__getitem__)

    async def refusals(self) -> dict[str, str]:
        """By each witness's name, in Chinese, why it must be looked into that it does not cosign; empty where it need
        not: it cosigns, or is merely away."""
        names = [name_of(witness) for witness in self.policy.witnesses]
        async with self._engine.connect() as db:
            query = select(col(WitnessRecord.witness)).where(col(WitnessRecord.reason).in_((AHEAD, INCONSISTENT)))
            refusing = set(await db.scalars(query))
        told = "它拒绝联署：它见过的检查点与本日志不一致，或比本日志长。数据库可能是旧备份，或日志有两个版本"
        return {name: told if name in refusing else "" for name in names}

    async def state(self, stamps: wire.StampState) -> wire.LogState:
        async with self._engine.connect() as db:
            head = (await db.execute(select(LogHead))).one()
            records = {row.witness: row for row in await db.execute(select(WitnessRecord))}
            query = select(LogCheckpoint).where(col(LogCheckpoint.published_lines).is_not(None))
            newest = (await db.execute(query.order_by(col(LogCheckpoint.size).desc()).limit(1))).one_or_none()
            met = await db.scalar(self._newest_meeting())
            names = [name_of(witness) for witness in self.policy.witnesses]
            counted = select(func.count()).where(
                col(Cosignature.size) == (newest.size if newest else 0), col(Cosignature.witness).in_(names)
            )
            cosigned = await db.scalar(counted) or 0
            rebuilds = await db.execute(select(Rebuild).order_by(col(Rebuild.at).desc()).limit(20))
            rebuilt = [wire.RebuildTold(at=row.at, size=row.size) for row in rebuilds]
        return wire.LogState(
            size=head.size,
            published_size=newest.size if newest else head.published_size,
            needed=self.policy.need,
            stamps=stamps,
            rebuilds=rebuilt,
            cosigned=cosigned,
            meets_policy=cosigned >= self.policy.need,
            met_size=met,
            witnesses=[
                wire.WitnessState(
                    name=name.rpartition("+")[0],
                    vkey=witness.vkey,
                    url=witness.url,
                    cosigned_size=records[name].size if name in records else 0,
                    away_since=records[name].away_since if name in records else None,
                    reason=records[name].reason if name in records else None,
                )
                for name, witness in zip(names, self.policy.witnesses, strict=True)
            ],
        )

    async def _ask(self, witness: Witness, size: int, note: str, old: int) -> tuple[str, datetime] | Away:
        async def proof(old: int) -> list[bytes]:
            return await self.consistency(old, size)

        try:
            return await self._witnesses.cosign(witness, note, old, proof)
        except Away as away:
            return away

    async def _meeting(self, db: AsyncConnection, upto: int) -> tuple[int, str] | None:
        size = await db.scalar(self._newest_meeting())
        return (size, await whole(db, size)) if size is not None and size >= upto else None

    def _newest_meeting(self) -> Select[int]:
        query = select(col(LogCheckpoint.size)).where(col(LogCheckpoint.policy) == self.policy.id)
        return query.order_by(col(LogCheckpoint.size).desc()).limit(1)


def _left_alone(until: datetime, now: datetime) -> bool:
    """Farther ahead than any pause is only what a clock wrote that was set back since."""
    return now < until <= now + timedelta(seconds=LONGEST_PAUSE)


async def whole(db: AsyncConnection, size: int) -> str:
    """The note of a checkpoint with its cosignatures, which stand below the log's own signature."""
    note = await db.scalar(select(col(LogCheckpoint.note)).where(col(LogCheckpoint.size) == size))
    query = select(col(Cosignature.line)).where(col(Cosignature.size) == size)
    return str(note) + "".join(await db.scalars(query.order_by(col(Cosignature.witness))))


async def _head(db: AsyncConnection) -> tuple[int, str]:
    head = (await db.execute(select(LogHead))).one()
    return int(head.size), str(head.checkpoint)


async def _record(db: AsyncConnection, name: str, values: dict[str, object]) -> None:
    row = insert(WitnessRecord).values(witness=name, **values)
    await db.execute(row.on_conflict_do_update(index_elements=["witness"], set_=values))
