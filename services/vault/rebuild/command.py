"""The flow of a rebuild; the steps' numbers are those of the package."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.vault import errors, keys
from services.vault.alarms import Alarms
from services.vault.keyring import Keyring, on_record
from services.vault.log import statement
from services.vault.log.sequencer import enter
from services.vault.models import LogEntry, LogHead, LogPending, Rebuild
from services.vault.rebuild.acts import Acts
from services.vault.rebuild.files import Files
from services.vault.rebuild.ledger import Ledger
from services.vault.rebuild.objects import Found, Objects
from services.vault.sealing import Sealing
from services.vault.settings import Settings
from services.vault.stores import conformance, open_store
from services.vault.stores.port import Store
from services.vault.sweeping import Sweeper
from services.vault.watch import Watch

_OTHERS = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = 'quancheng_vault' AND pid <> pg_backend_pid()
""")
_OWNS = text("SELECT has_table_privilege('vault.log_entries', 'DELETE')")
_ALONE = text("SELECT pg_try_advisory_lock(hashtext('quancheng-vault-rebuild'))")
_PROGRESS_EVERY = 1000


async def run(settings: Settings, arguments: list[str]) -> int:
    """`rebuild [--anyway]`: 0 rebuilt and whole, or not needed; 1 rebuilt, and something in the bucket is missing or
    altered; 64 wrong call. Raises KeyFault, StoreUnfit, HistoryLost, StoreUnavailable: not rebuilt, run it again."""
    if arguments not in ([], ["--anyway"]):
        print("用法：python -m services.vault rebuild [--anyway]", file=sys.stderr)
        return 64
    passphrase = await asyncio.to_thread(keys.read_passphrase, settings.keys_passphrase_file)
    lying = {
        purpose: await asyncio.to_thread(keys.lying, settings.keys, purpose, passphrase) for purpose in keys.PURPOSES
    }
    # No tickets are given here, so what would authenticate them is not needed.
    store = open_store(settings, b"")
    engine = create_async_engine(
        settings.dsn.get_secret_value(), connect_args={"server_settings": {"timezone": "UTC"}}
    )
    try:
        async with _alone(engine):
            await store.start()
            await conformance.require(store)
            return await _Rebuilder(settings, engine, store, passphrase, lying).run(anyway=bool(arguments))
    finally:
        await store.stop()
        await engine.dispose()


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[None]:
    """By the owner's role, while no vault runs and no other rebuild."""
    async with engine.connect() as plain:
        db = await plain.execution_options(isolation_level="AUTOCOMMIT")
        if not await db.scalar(_OWNS):
            raise errors.HistoryLost("重建须以数据库所有者的身份运行：把 QUANCHENG_VAULT_DSN 设为迁移所用的连接。")
        if await db.scalar(_OTHERS):
            raise errors.HistoryLost("证据库仍在运行（数据库有它的连接）：请先停止它的全部进程，再重建。")
        if not await db.scalar(_ALONE):
            raise errors.HistoryLost("另一个重建正在进行。")
        yield


@dataclass
class _Rebuilder:
    settings: Settings
    engine: AsyncEngine
    store: Store
    passphrase: bytes
    lying: dict[str, list[bytes]]

    async def run(self, *, anyway: bool) -> int:
        # 1. and 2. The log, and the published tree.
        ledger = Ledger(self.engine, self.store, self.settings.origin, self.lying)
        if not anyway and await self._in_step(ledger):
            print("数据库不落后于存储中已公布的日志，无需重建（仍要重建：--anyway）。")
            return 0
        await ledger.restore()
        print(f"日志：{ledger.size} 条陈述，已公布的 {ledger.published.size} 条与公布的检查点一致。", flush=True)
        # 3. What the statements tell.
        acts = Acts(self.engine, ledger.trusted)
        async for lines in ledger.lines():
            await acts.retell(lines)
        await acts.end()
        keyring = await self._keyring()
        # 4. The bucket.
        found = await self._walk(ledger, keyring)
        # 5. Stamps and files.
        files = Files(self.engine, self.store, self.settings.origin)
        await files.restore()
        # 6. The head, last.
        await self._move_head(ledger, found, keyring.keys)
        return _report(ledger, found, files)

    async def _in_step(self, ledger: Ledger) -> bool:
        """Whether a vault would start on this database as it is."""
        async with self.engine.connect() as db:
            head = (await db.execute(select(LogHead))).one_or_none()
        return head is not None and await ledger.is_prefix_of(int(head.size))

    async def _keyring(self) -> Keyring:
        """The keys that sign now, as the log tells. Raises KeyFault where their files are not there."""
        known = await on_record(self.engine)
        own = await asyncio.to_thread(keys.read, self.settings.keys, self.settings.origin, known, self.passphrase)
        return Keyring(self.engine, self.settings, self.passphrase, own)

    async def _walk(self, ledger: Ledger, keyring: Keyring) -> Found:
        alarms = Alarms(self.engine)
        retention = timedelta(days=self.settings.retention_days)
        watch, soon = Watch(self.store, alarms), timedelta(seconds=self.settings.sweep_after_seconds)
        sealing = Sealing(self.engine, self.store, keyring, watch, retention=retention, sweep_after=soon)
        whole = timedelta(seconds=self.settings.sweep_for_seconds)
        sweeper = Sweeper(self.engine, self.store, sealing, alarms, whole=whole)
        objects = Objects(self.engine, self.store, keyring.keys, alarms, sweeper, ledger)

        def told(found: Found) -> None:
            if found.recordings % _PROGRESS_EVERY == 0:
                print(f"  已核对 {found.recordings} 份记录、{found.objects} 个对象 …", flush=True)

        await objects.walk(told)
        return objects.found

    async def _move_head(self, ledger: Ledger, found: Found, own: keys.Keys) -> None:
        now, act = datetime.now(UTC), uuid7()
        head = {"size": ledger.size, "root": ledger.root, "published_size": ledger.published.size}
        head["checkpoint"] = own.checkpoint(ledger.size, ledger.root)
        row = {"at": now, "size": ledger.size, "published_size": ledger.published.size}
        counted = {"recordings": found.recordings, "objects": found.objects, "faults": found.faults}
        async with self.engine.begin() as db:
            await db.execute(select(col(LogHead.size)).with_for_update())
            entries = await db.scalar(select(func.count()).select_from(LogEntry))
            if entries != ledger.size or await db.scalar(_OTHERS):
                raise errors.HistoryLost("重建期间有证据库进程启动：请停止它的全部进程，再运行一次重建。")
            fresh = insert(LogHead).values(single=True, **head)
            await db.execute(fresh.on_conflict_do_update(index_elements=["single"], set_=head))
            told = select(col(LogEntry.act)).where(col(LogEntry.act) == col(LogPending.act)).exists()
            await db.execute(delete(LogPending).where(told))
            await db.execute(insert(Rebuild).values(row))
            fields = {"size": ledger.size, "published_size": ledger.published.size, "found": counted}
            await enter(db, act, statement.build("rebuild", act, now, fields))


def _report(ledger: Ledger, found: Found, files: Files) -> int:
    print(f"记录：{found.recordings} 份，对象 {found.objects} 个，均与凭证核对。")
    if found.again:
        print(f"日志尚未记载而存储中已有的 {found.again} 个片段已按其登记重新封存，凭证为新签。")
    if ledger.forked:
        print(
            f"注意：数据库中有 {ledger.forked} 条陈述不在已公布的日志中（分叉），已重新登记，将以新的序号进入日志。"
        )
    if found.strays:
        print(f"注意：{found.strays} 个对象不属于任何凭证或清单，已列入告警。")
    for one in [*found.wrong, *files.wrong]:
        print(f"✗ {one}")
    wrong = found.faults + len(files.wrong)
    print(
        "重建完成。"
        + (f"有 {wrong} 处缺失或不符，见上，已列入告警。" if wrong else "与已公布的日志一致，全部对象核对无误。")
    )
    print(f"日志从第 {ledger.size} 条起如曾签出，现已丢失：各服务会按登记重新记入。")
    return 1 if wrong else 0
