"""The api's jobs: its queue in the schema `api` (`services.jobs`), and what is told of those that are dead.

Rooms enter jobs in the transaction of the act that calls for them; what does them is registered in `app.py`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from services import jobs
from services.api.errors import NoSuchJob

SCHEMA = "api"
_log = logging.getLogger("quancheng.api.jobs")
# What waits for the vault waits for days: every half minute, for about four of them.
_LONGEST_WAIT, _TRIES = 30.0, 12_000


async def enter(db: AsyncSession, kind: str, subject: str, *, after: timedelta = timedelta()) -> None:
    """Have this done once the transaction has committed, `after` so long at the earliest."""
    await jobs.enter(await db.connection(), SCHEMA, kind, subject, due=datetime.now(UTC) + after)


def queue(dsn: str, engine: AsyncEngine) -> jobs.Jobs:
    return jobs.Jobs(dsn, SCHEMA, _Told(engine), tries=_TRIES, longest=_LONGEST_WAIT)


async def dead(engine: AsyncEngine, *, after: int | None, limit: int) -> list[jobs.DeadJob]:
    """The dead jobs, newest first, from below the id `after`."""
    return await jobs.dead(engine, SCHEMA, after=after, limit=limit)


async def retry(engine: AsyncEngine, job: int) -> None:
    """Raises NoSuchJob where none of this number is dead."""
    if not await jobs.retry(engine, SCHEMA, job):
        raise NoSuchJob


class _Told:
    """A dead job stays in the queue, where administrators see it, until it is done after all."""

    def __init__(self, engine: AsyncEngine):
        self._engine = engine

    async def died(self, kind: str, subject: str, reason: str) -> None:
        _log.error("alarm kind=job-dead subject=%s/%s %s", kind, subject, reason)

    async def done(self, kind: str, subject: str) -> None:
        await jobs.forget_dead(self._engine, SCHEMA, kind, subject)
