"""What the vault's operator looks at, at the command line, while it runs or not.

    alarms            what is otherwise than it should be, the one last seen first
    jobs              what waits, runs and is dead, and the dead ones by their numbers
    retry-job N       let a dead one be tried again
    log-state         how far the log is signed, published, cosigned and stamped

Exit codes: 0 done and nothing stands out, 1 something does or it was refused, 3 the database is not to be used, 64
wrong call.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from services.vault import database, jobs
from services.vault.alarms import Alarms
from services.vault.contract.wire import rfc3339
from services.vault.errors import VaultError
from services.vault.log.checkpoints import Checkpoints
from services.vault.log.witnesses import Policy
from services.vault.settings import Settings
from services.vault.stores import open_store
from services.vault.timestamps import Timestamper, load_authorities

COMMANDS = ("alarms", "jobs", "retry-job", "log-state")
_MOST = 200


async def run(settings: Settings, arguments: list[str]) -> int:
    engine = database.connect(settings)
    try:
        match arguments:
            case ["alarms"]:
                return await _alarms(engine)
            case ["jobs"]:
                return await _jobs(engine)
            case ["retry-job", number] if number.isdigit():
                await jobs.retry(engine, int(number))
                print(f"✓ 任务 {number} 将重新执行")
                return 0
            case ["log-state"]:
                return await _log_state(engine, settings)
        print(__doc__, file=sys.stderr)
        return 64
    except VaultError as error:
        print(f"✗ {error.title}", file=sys.stderr)
        return 1
    finally:
        await engine.dispose()


async def _alarms(engine: AsyncEngine) -> int:
    told = await Alarms(engine).standing(_MOST)
    for one in told.alarms:
        print(f"✗ {one.kind} {one.subject}\n  {one.detail}")
        print(f"  {rfc3339(one.first_seen)} 起，最近 {rfc3339(one.last_seen)}")
    print(f"另有更多，只列出最近的 {_MOST} 条。" if told.more else f"共 {len(told.alarms)} 条告警。")
    return 1 if told.alarms else 0


async def _jobs(engine: AsyncEngine) -> int:
    for kind in (await jobs.summary(engine)).kinds:
        since = f"，最早的自 {rfc3339(kind.oldest_due)} 起等待" if kind.oldest_due else ""
        print(f"{kind.kind}：等待 {kind.waiting}，执行中 {kind.running}，失败 {kind.dead}{since}")
    told = await jobs.dead(engine, None, _MOST)
    for job in told.jobs:
        print(f"✗ {job.id} {job.kind} {job.subject}：{rfc3339(job.died_at)} 停止重试；排除原因后 retry-job {job.id}")
    print(f"另有更多，只列出最近的 {_MOST} 个。" if told.next else f"共 {len(told.jobs)} 个失败的任务。")
    return 1 if told.jobs else 0


async def _log_state(engine: AsyncEngine, settings: Settings) -> int:
    store = open_store(settings, b"")
    try:
        stamper = Timestamper(engine, store, load_authorities(settings), retention=timedelta())
        policy = Policy(settings.witnesses, settings.witnesses_needed)
        told = await Checkpoints(engine, policy, seconds=0).state(await stamper.state())
    finally:
        await store.stop()
    print(f"日志 {told.size} 条，已公布 {told.published_size} 条")
    if told.witnesses:
        met = "达到" if told.meets_policy else "未达到"
        print(f"见证：需要 {told.needed} 个，最新公布的检查点有 {told.cosigned} 个联署，{met}要求")
    for one in told.witnesses:
        how = f"自 {rfc3339(one.away_since)} 起没有联署（{one.reason}）" if one.away_since else "正常"
        print(f"  {one.name}：已联署 {one.cosigned_size} 条，{how}")
    stamps = told.stamps
    if stamps.authorities:
        waiting = f"；自 {_time(stamps.waiting_since)} 起有检查点在等待" if stamps.waiting_since else ""
        print(f"时间戳：最新的在 {stamps.size} 条处，时间 {_time(stamps.stamped_at)}{waiting}")
    for rebuilt in told.rebuilds:
        print(f"曾经重建：{rfc3339(rebuilt.at)}，自第 {rebuilt.size} 条起重新记入")
    away = [one for one in told.witnesses if one.away_since]
    return 0 if told.meets_policy and not away and not stamps.waiting_since else 1


def _time(moment: datetime | None) -> str:
    return rfc3339(moment) if moment else "（无）"
