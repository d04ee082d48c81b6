"""The vault's jobs: its queue, the alarm where one is dead, and what is told of them (`services.jobs`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services import jobs
from services.vault import errors
from services.vault.alarms import Alarms
from services.vault.contract import wire

SCHEMA = "vault"
_DEAD = "job-dead"


async def enter(db: AsyncConnection, kind: str, subject: str, *, due: datetime | None = None) -> None:
    """Have this done once the transaction has committed (`Jobs.enter`)."""
    await jobs.enter(db, SCHEMA, kind, subject, due=due)


class Told:
    """A dead job is an alarm until it is done after all; `also` is done, by kind, where one has died."""

    def __init__(
        self, engine: AsyncEngine, alarms: Alarms, also: Mapping[str, Callable[[str], Awaitable[None]]] | None = None
    ):
        self._engine, self._alarms, self._also = engine, alarms, also or {}

    async def died(self, kind: str, subject: str, reason: str) -> None:
        if subject == jobs.EVERY:
            detail = f"周期任务连续失败（{reason}），仍在重试；原因见日志，恢复后告警自行解除。"
        else:
            detail = f"后台任务多次重试仍然失败（{reason}），已停止重试，须有人处理后重新执行。"
        await self._alarms.sound(_DEAD, f"{kind}/{subject}", detail)
        if kind in self._also:
            await self._also[kind](subject)

    async def done(self, kind: str, subject: str) -> None:
        await jobs.forget_dead(self._engine, SCHEMA, kind, subject)
        await self._alarms.clear(_DEAD, f"{kind}/{subject}")


async def dead(engine: AsyncEngine, after: int | None, limit: int) -> wire.DeadJobs:
    found = await jobs.dead(engine, SCHEMA, after=after, limit=limit + 1)
    told = [wire.DeadJob.model_validate(vars(job)) for job in found[:limit]]
    return wire.DeadJobs(jobs=told, next=told[-1].id if len(found) > limit else None)


async def retry(engine: AsyncEngine, job: int) -> None:
    """Raises NoSuchJob where none of this number is dead."""
    if not await jobs.retry(engine, SCHEMA, job):
        raise errors.NoSuchJob


async def summary(engine: AsyncEngine) -> wire.JobSummary:
    kinds = await jobs.summary(engine, SCHEMA)
    return wire.JobSummary(kinds=[wire.JobKind.model_validate(vars(kind)) for kind in kinds])
