"""Publishing: from the rows to the store, repeatable at any restart.

1. The statements with their salts and what they carry, sealed among the evidence (`statements.py`; they are
   private): a file at a time, so that memory stays flat however far publishing has fallen behind.
2. Tiles and entry bundles that changed since the last published size; full ones are sealed among the evidence too.
3. Witnesses' cosignatures on the checkpoint, as many as come within a bounded time (`checkpoints.py`).
4. Last, the checkpoint: whoever sees it finds everything it stands for. Cosignatures that come later are added.
5. The published size moves.

One process publishes at a time (a session lock in the database), so that an older checkpoint never
overwrites a newer one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault.contract.verify import VerificationError, verify_note_by_any
from services.vault.errors import HistoryLost
from services.vault.keyring import Keyring
from services.vault.log import statements, tiles, tree
from services.vault.log.checkpoints import Checkpoints
from services.vault.log.note import vkey
from services.vault.log.sequencer import tiles_for
from services.vault.models import KeyRecord, LogEntry, LogHead
from services.vault.retention import keep
from services.vault.stores.port import Store

CHECKPOINT = "checkpoint"


class Publisher:
    def __init__(
        self, engine: AsyncEngine, store: Store, keys: Keyring, checkpoints: Checkpoints, *, retention: timedelta
    ):
        self._engine, self._store, self._keys, self._retention = engine, store, keys, retention
        self._checkpoints = checkpoints

    async def publish(self) -> bool:
        """Bring the store up to the newest signed checkpoint; False where another process is at it."""
        async with self._engine.connect() as plain:
            db = await plain.execution_options(isolation_level="AUTOCOMMIT")
            if not await db.scalar(text("SELECT pg_try_advisory_lock(hashtext('quancheng-log-publish'))")):
                return False
            try:
                head = (await db.execute(select(LogHead))).one()
                done = int(head.published_size)
                while done < head.size:
                    upto = await statements.seal(
                        self._engine,
                        db,
                        self._store,
                        self._keys,
                        done,
                        int(head.size),
                        retention=self._retention,
                    )
                    await self._publish_tiles(db, done, upto)
                    if upto < head.size:
                        await self._published(db, upto)
                    done = upto
                if head.size:
                    note, lines = await self._checkpoints.cosign(int(head.size), head.checkpoint)
                    if head.size > head.published_size or not await self._checkpoints.is_public(head.size, lines):
                        await self._store.publish(CHECKPOINT, note.encode(), immutable=False)
                        await self._checkpoints.made_public(int(head.size), lines)
                        await self._published(db, int(head.size))
            finally:
                await db.execute(text("SELECT pg_advisory_unlock(hashtext('quancheng-log-publish'))"))
        return True

    async def _published(self, db: AsyncConnection, size: int) -> None:
        await db.execute(update(LogHead).where(col(LogHead.published_size) < size).values(published_size=size))

    async def _publish_tiles(self, db: AsyncConnection, done: int, upto: int) -> None:
        for level, number, width in tree.changed_tiles(done, upto):
            hashes = (await tiles_for(db, {(level, number)}))[level, number][: width * 32]
            path = tiles.tile_path(level, number, width)
            await self._store.publish(path, hashes, immutable=True)
            files = {path: hashes}
            if level == 0:
                bundle = await self._bundle(db, number, width)
                await self._store.publish(tiles.entries_path(number, width), bundle, immutable=True)
                files[tiles.entries_path(number, width)] = bundle
            if width == tiles.WIDTH:
                await self._seal_full(files)

    async def _seal_full(self, files: dict[str, bytes]) -> None:
        """What is full never changes again: it is locked among the evidence too, under `log/`."""
        retain_until = (datetime.now(UTC) + self._retention).replace(microsecond=0)
        for path, data in files.items():
            await keep(self._engine, await self._store.put(f"log/{path}", data, retain_until), retain_until)

    async def _bundle(self, db: AsyncConnection, number: int, width: int) -> bytes:
        first = number * tiles.WIDTH
        query = select(col(LogEntry.leaf)).where(
            col(LogEntry.position) >= first, col(LogEntry.position) < first + width
        )
        leaves = (await db.scalars(query.order_by(col(LogEntry.position)))).all()
        return tiles.encode_entries(list(leaves))


async def check_history(engine: AsyncEngine, store: Store, origin: str) -> None:
    """Refuse to go on with a database older than, or forked from, what has been published, by whichever key of the
    log that was. Raises HistoryLost, StoreUnavailable."""
    note = await store.published(CHECKPOINT)
    if note is None:
        async with engine.connect() as db:
            done = await db.scalar(select(col(LogHead.published_size)))
        if done:
            raise HistoryLost("日志曾经公布，而存储中没有检查点：日志存储桶被清空或配置有误，拒绝启动。")
        return
    try:
        query = select(col(KeyRecord.public_key)).where(col(KeyRecord.purpose) == "log")
        async with engine.connect() as db:
            vkeys = [vkey(origin, public) for public in await db.scalars(query)]
        published = verify_note_by_any(note.decode(), vkeys)
    except (VerificationError, UnicodeDecodeError) as error:
        raise HistoryLost(f"存储中的日志检查点不是本证据库签署的：{error}") from error
    async with engine.connect() as db:
        size = await db.scalar(select(col(LogHead.size))) or 0
        if published.size > size:
            raise HistoryLost(
                f"数据库中的日志（{size} 条）早于已公布的检查点（{published.size} 条）：数据库可能是旧备份。"
                "继续运行会造成日志分叉，拒绝启动。请恢复最新备份，或运行 python -m services.vault rebuild 重建。"
            )
        edge = await tiles_for(db, tree.right_edge(published.size))
    if tree.root(published.size, edge.__getitem__) != published.root:
        raise HistoryLost("数据库中的日志与已公布的检查点不一致（分叉），拒绝启动。")
