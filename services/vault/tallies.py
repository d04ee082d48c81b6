"""How many sealed objects a recording has and how many of them are flagged, kept beside it as they change, so that a
hold over millions of objects tells how far it has come by a look at its recordings.

Whoever changes what is counted holds the recording's row first (`alone`) and counts in the same transaction.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_ALONE = text("SELECT id FROM vault.recordings WHERE id = :recording FOR NO KEY UPDATE")
_FLAGGED = "count(*) FILTER (WHERE held), count(*) FILTER (WHERE held IS NULL), count(*)"
_FLAG = {
    "segments": text(f"""
        WITH was AS (
            SELECT s.sequence, s.sha256, s.held FROM vault.segments AS s
            JOIN unnest(CAST(:sequences AS integer[]), CAST(:digests AS text[])) AS told(sequence, sha256)
            ON s.sequence = told.sequence AND s.sha256 = told.sha256
            WHERE s.recording_id = :recording AND s.state = 'sealed' AND s.held IS DISTINCT FROM :held
        ), done AS (
            UPDATE vault.segments AS s SET held = :held FROM was
            WHERE s.recording_id = :recording AND s.sequence = was.sequence AND s.sha256 = was.sha256
            RETURNING was.held
        ) SELECT {_FLAGGED} FROM done
    """),  # noqa: S608
    "manifests": text(f"""
        WITH was AS (
            SELECT number, held FROM vault.manifests WHERE recording_id = :recording AND version IS NOT NULL
            AND number = ANY(CAST(:numbers AS integer[])) AND held IS DISTINCT FROM :held
        ), done AS (
            UPDATE vault.manifests AS m SET held = :held FROM was
            WHERE m.recording_id = :recording AND m.number = was.number RETURNING was.held
        ) SELECT {_FLAGGED} FROM done
    """),  # noqa: S608
}
_MOVE = text("""
    UPDATE vault.recordings SET objects = objects + :objects, flagged = flagged + :flagged,
        doubted = doubted + :doubted WHERE id = :recording
""")
_DISPOSE = text(f"""
    WITH done AS (
        UPDATE vault.segments SET state = 'disposed' WHERE recording_id = :recording AND sequence = :sequence
        AND sha256 = :sha256 AND state = 'sealed' RETURNING held
    ) SELECT {_FLAGGED} FROM done
""")  # noqa: S608
COUNTED = """
    SELECT count(*) AS objects, count(*) FILTER (WHERE held) AS flagged,
        count(*) FILTER (WHERE held IS NULL) AS doubted
    FROM (
        SELECT held FROM vault.segments WHERE recording_id = r.id AND state = 'sealed'
        UNION ALL
        SELECT held FROM vault.manifests WHERE recording_id = r.id AND version IS NOT NULL
    ) AS objects
"""
_COUNT_AGAIN = text(f"""
    UPDATE vault.recordings AS r SET (objects, flagged, doubted) = ({COUNTED}) WHERE id = :recording
""")  # noqa: S608
_TOLD = text("""
    SELECT count(*) AS recordings, coalesce(sum(r.objects), 0) AS objects,
        coalesce(sum(CASE WHEN wanted THEN r.flagged ELSE r.objects - r.flagged - r.doubted END), 0) AS settled
    FROM vault.held_recordings AS h JOIN vault.recordings AS r ON r.id = h.recording_id
    CROSS JOIN LATERAL (
        SELECT EXISTS (
            SELECT FROM vault.held_recordings AS o JOIN vault.holds ON holds.id = o.hold_id
            WHERE o.recording_id = h.recording_id AND holds.state = 'active'
        ) AS wanted
    ) AS covered WHERE h.hold_id = :hold
""")


async def alone(db: AsyncConnection, recording: UUID) -> None:
    """Nobody else changes what is counted of this recording until the transaction ends."""
    await db.execute(_ALONE, {"recording": recording})


async def flag(db: AsyncConnection, recording: UUID, part: str, named: dict[str, Any], held: bool | None) -> None:
    """Write down of these objects ("segments" or "manifests") that they are held, or not, or that it is in doubt."""
    counted = (await db.execute(_FLAG[part], named | {"recording": recording, "held": held})).one()
    flagged, doubted, changed = counted
    moved = {
        "flagged": (changed if held else 0) - flagged,
        "doubted": (changed if held is None else 0) - doubted,
    }
    await db.execute(_MOVE, moved | {"objects": 0, "recording": recording})


async def dispose(db: AsyncConnection, recording: UUID, sequence: int, sha256: str) -> None:
    """Write down that a sealed segment is gone."""
    await alone(db, recording)
    named = {"recording": recording, "sequence": sequence, "sha256": sha256}
    flagged, doubted, gone = (await db.execute(_DISPOSE, named)).one()
    moved = {"objects": -gone, "flagged": -flagged, "doubted": -doubted}
    await db.execute(_MOVE, moved | {"recording": recording})


async def count_again(db: AsyncConnection, recording: UUID) -> None:
    """From the objects themselves: for a rebuild."""
    await db.execute(_COUNT_AGAIN, {"recording": recording})


async def of_hold(db: AsyncConnection, hold: UUID) -> Any:
    """`recordings`, `objects` and `settled` of a hold: by its recordings alone, however many objects they have."""
    return (await db.execute(_TOLD, {"hold": hold})).one()
