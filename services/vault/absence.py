"""Whether anybody does the vault's jobs: looked at by who serves, since a worker that is not there raises no alarm.

    absence = Absence(engine, alarms, jobs.kinds)
    await absence.look()

The alarm `worker-absent` stands while no worker is there at all, or something has been due for longer than one
that keeps up would leave it: a job for half an hour, a look at a recording's locks or the renewal of a kept file for
a day. It is cleared once that is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from time import monotonic
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.vault.alarms import Alarms
from services.vault.contract.wire import rfc3339
from services.vault.retention import RENEW_BEFORE

ABSENT, _SUBJECT = "worker-absent", "jobs"
_GRACE_SECONDS = 180.0
"""A worker may be started anew, and another takes a while to take over."""
_JOB, _DAY = timedelta(minutes=30), timedelta(days=1)

# Who does what recurs holds the lock of its kind (`services.jobs`).
_STEP = "hashtextextended('vault/every/tidy', 0)"
_THERE = f"""
    EXISTS (
        SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
        WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND datname = current_database()
        AND classid = CAST(({_STEP} >> 32) & 4294967295 AS oid) AND objid = CAST({_STEP} & 4294967295 AS oid)
    )
"""
# The oldest of each, and each by the head of an index.
_SEEN = text(f"""
    SELECT {_THERE} AS there,
        (SELECT min(due) FROM unnest(CAST(:kinds AS text[])) AS kind CROSS JOIN LATERAL (
            SELECT execute_after AS due FROM vault.pgqueuer WHERE status = 'queued' AND entrypoint = kind
            AND execute_after < now() - CAST(:job AS interval) ORDER BY execute_after LIMIT 1
        ) AS oldest) AS job,
        (SELECT renew_at FROM vault.recordings WHERE renew_at < now() - CAST(:day AS interval)
            ORDER BY renew_at LIMIT 1) AS renewal,
        (SELECT retain_until FROM vault.kept_files
            WHERE retain_until < now() + CAST(:before AS interval) - CAST(:day AS interval)
            ORDER BY retain_until LIMIT 1) AS file
""")  # noqa: S608


class Absence:
    """`kinds` of jobs are looked at. `grace`: for how many seconds nobody may be there before it is an alarm."""

    def __init__(self, engine: AsyncEngine, alarms: Alarms, kinds: Sequence[str], *, grace: float = _GRACE_SECONDS):
        self._engine, self._alarms, self._kinds, self._grace = engine, alarms, list(kinds), grace
        self._gone_since: float | None = None

    async def look(self) -> None:
        values = {"kinds": self._kinds, "job": _JOB, "day": _DAY, "before": RENEW_BEFORE}
        async with self._engine.connect() as db:
            seen = (await db.execute(_SEEN, values)).one()
        if seen.there:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = monotonic()
        gone = self._gone_since is not None and monotonic() - self._gone_since >= self._grace
        told = [*(["没有后台任务进程在运行"] if gone else []), *_overdue(seen)]
        if told:
            await self._alarms.sound(ABSENT, _SUBJECT, f"{'；'.join(told)}。续期、留存、清单和日志陈述因此停下或落后")
        elif seen.there:
            await self._alarms.clear(ABSENT, _SUBJECT)


def _overdue(seen: Any) -> list[str]:
    told = {
        "最早的后台任务自 {} 起应执行": seen.job,
        "最早的锁定自 {} 起应查看续期": seen.renewal,
        "日志文件的锁定应已续期，最早的到 {} 为止": seen.file,
    }
    return [sentence.format(rfc3339(when)) for sentence, when in told.items() if when is not None]
