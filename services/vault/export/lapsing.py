"""What is past its time goes, and copies before that where what they are of was disposed of (step 7).

The staging bucket holds copies of evidence that nothing locks, so what no export stands for is looked for and removed
too: a copy that was made while its export lapsed, and those of a database that was lost.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault.export.preparing import copies_of, copy_key
from services.vault.models import Export, ExportFile, ExportItem, ExportPiece
from services.vault.stores.staging import Staging

_BATCH = 500
_BURIED = text("""
    SELECT f.act, f.ordinal, f.path FROM vault.exports AS e
    JOIN vault.export_items AS i ON i.act = e.act AND i.kind = 'manifest' AND NOT i.gone
    JOIN vault.recordings AS r ON r.id = i.recording_id AND r.state IN ('disposing', 'disposed')
    JOIN vault.export_files AS f ON f.act = e.act AND f.path = 'data/copies/' || i.recording_id
        || CASE WHEN i.number > 0 THEN '.' || i.number ELSE '' END || '.mp4'
    WHERE e.copies AND NOT e.cleared LIMIT :limit
""")


class Lapsing:
    def __init__(self, engine: AsyncEngine, staged: Staging):
        self._engine, self._staging = engine, staged

    async def lapse(self, *, limit: int = 50) -> int:
        """Let go of what is past its time, and remove its rows and copies; returns how many were cleared. Raises
        StoreUnavailable."""
        await self._bury()
        due = col(Export.expires_at) <= datetime.now(UTC)
        async with self._engine.begin() as db:
            old = select(col(Export.act)).where(due, col(Export.state) != "lapsed")
            old = old.order_by(col(Export.expires_at)).limit(limit)
            acts = (await db.scalars(old)).all()
            await db.execute(update(Export).where(col(Export.act).in_(acts)).values(state="lapsed"))
        cleared = select(col(Export.act)).where(col(Export.state) == "lapsed", col(Export.cleared).is_(False))
        async with self._engine.connect() as db:
            acts = (await db.scalars(cleared.limit(limit))).all()
        for act in acts:
            await self._clear(act)
        return len(acts)

    async def forget_strays(self) -> int:
        """Remove what no export stands for; returns how many copies. Raises StoreUnavailable."""
        removed, after = 0, ""
        while names := await self._staging.names(copies_of(), after):
            after = names[-1]
            acts = {name: _act_of(name) for name in names}
            live = select(col(Export.act)).where(col(Export.act).in_(set(acts.values())))
            async with self._engine.connect() as db:
                known = set(await db.scalars(live.where(col(Export.cleared).is_(False))))
            for name in names:
                if acts[name] not in known:
                    await self._staging.remove(name)
                    removed += 1
        return removed

    async def _bury(self) -> None:
        async with self._engine.connect() as db:
            rows = (await db.execute(_BURIED, {"limit": _BATCH})).all()
        for row in rows:
            await self._staging.remove(copy_key(row.act, row.path.rpartition("/")[2].removesuffix(".mp4")))
            async with self._engine.begin() as db:
                this = (col(ExportFile.act) == row.act) & (col(ExportFile.ordinal) == row.ordinal)
                await db.execute(delete(ExportFile).where(this))

    async def _clear(self, act: UUID) -> None:
        async with self._engine.connect() as db:
            row = (await db.execute(select(Export).where(col(Export.act) == act))).one()
            mine = select(ExportItem).where(col(ExportItem.act) == act, col(ExportItem.kind) == "manifest")
            items = (await db.execute(mine)).all() if row.copies else []
        for item in items:
            name = f"{item.recording_id}.{item.number}" if item.number else str(item.recording_id)
            await self._staging.remove(copy_key(act, name))
        for table, key in ((ExportPiece, ExportPiece.ordinal), (ExportFile, ExportFile.ordinal)):
            await self._remove(table, key, act)
        await self._remove(ExportItem, ExportItem.place, act)
        async with self._engine.begin() as db:
            await db.execute(update(Export).where(col(Export.act) == act).values(cleared=True))

    async def _remove(self, table: Any, key: Any, act: UUID) -> None:
        """A few hundred files at a time, so that no transaction is long."""
        while True:
            async with self._engine.begin() as db:
                first = await db.scalar(select(func.min(key)).where(col(table.act) == act))
                if first is None:
                    return
                await db.execute(delete(table).where(col(table.act) == act, col(key) < first + _BATCH))


def _act_of(name: str) -> UUID | None:
    """The export that a copy is named for."""
    try:
        return UUID(name.removeprefix(copies_of()).partition("/")[0])
    except ValueError:
        return None
