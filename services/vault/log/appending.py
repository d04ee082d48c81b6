"""Acts of the api, many at a time: from an append to an index, and if asked for to a proof.

1. The statements wait for their indexes, all of one message in one transaction.
2. The sequencer gives the indexes (`sequencer.py`); what many callers wait for costs one batch.
3. The proofs are made for the checkpoint that was signed over them; they share what they read and hash.

Each act has its own outcome. A process that dies between 1 and 2 leaves statements that the next sequencing
takes; the caller appends again and is answered the index that they have by then.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ARRAY, LargeBinary, Uuid, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from services.vault import errors
from services.vault.contract import wire
from services.vault.log import statement, tree
from services.vault.log.sequencer import Sequencer, among, tiles_for
from services.vault.models import LogEntry, LogHead, LogPending

_ENTER = text(
    "INSERT INTO vault.log_pending (act, statement, salt) SELECT * FROM unnest(:acts, :statements, :salts)"
    " ON CONFLICT (act) DO NOTHING RETURNING act"
).bindparams(
    bindparam("acts", type_=ARRAY(Uuid)),
    bindparam("statements", type_=ARRAY(LargeBinary)),
    bindparam("salts", type_=ARRAY(LargeBinary)),
)


class Appender:
    def __init__(self, engine: AsyncEngine, sequencer: Sequencer):
        self._engine, self._sequencer = engine, sequencer

    async def append(self, appends: Sequence[wire.Append]) -> wire.AppendedMany:
        """Returns once every act that can be is under a signed checkpoint. The same act again answers the same
        index; the same act with other content is a problem. Raises LogUnavailable after ten seconds: ask again.
        """
        now = datetime.now(UTC)
        problems: dict[UUID, errors.VaultError] = {}
        texts: dict[UUID, bytes] = {}
        for append in appends:
            try:
                built = statement.build(append.kind, append.act, now, append.fields)
            except (ValueError, RecursionError):
                problems[append.act] = errors.StatementUnfit()
                continue
            if not _same_but_for_time(texts.setdefault(append.act, built), built):
                problems[append.act] = errors.ActDiffers()
        # 1. They wait for their indexes.
        async with self._engine.begin() as db:
            known = await _enter(db, {act: built for act, built in texts.items() if act not in problems})
        problems |= {
            act: errors.ActDiffers() for act, kept in known.items() if not _same_but_for_time(kept, texts[act])
        }
        # 2. They have them.
        acts = [act for act in texts if act not in problems]
        indexes = await self._sequencer.settled_all(acts)
        # 3. Proofs.
        wanted = {append.act for append in appends if append.proof} & indexes.keys()
        size, proofs = await self._proofs(wanted)
        return wire.AppendedMany(
            appended=[
                wire.Appended(act=act, index=indexes[act], tree_size=size, proof=proofs.get(act)) for act in acts
            ],
            problems=[wire.ActProblem(act=act, problem=_problem(error)) for act, error in problems.items()],
        )

    async def _proofs(self, acts: set[UUID]) -> tuple[int, dict[UUID, str]]:
        """The newest tree's size, and the proofs in its checkpoint of these acts, which it holds."""
        async with self._engine.connect() as db:
            head = (await db.execute(select(LogHead))).one()
            size = int(head.size)
            if not acts:
                return size, {}
            entries = (await db.execute(select(LogEntry).where(among(LogEntry.act, acts)))).all()
            neighbours = {entry.position // tree.WIDTH for entry in entries}
            needed = tree.right_edge(size).union(*(tree.path(number * tree.WIDTH) for number in neighbours))
            tiles = await tiles_for(db, needed)
        found = tree.inclusion_proofs([entry.position for entry in entries], size, tiles.__getitem__)
        return size, {
            entry.act: statement.proof_text(entry.position, hashes, head.checkpoint, entry.salt, entry.statement)
            for entry, hashes in zip(entries, found, strict=True)
        }


async def _enter(db: AsyncConnection, texts: dict[UUID, bytes]) -> dict[UUID, bytes]:
    """Let these statements wait, and return those of them that were there already, as they were."""
    if not texts:
        return {}
    logged = await db.execute(
        select(col(LogEntry.act), col(LogEntry.statement)).where(among(LogEntry.act, texts.keys()))
    )
    known = {row.act: row.statement for row in logged}
    # In one order everywhere, so that two messages with the same acts cannot block each other.
    fresh = sorted(texts.keys() - known.keys())
    values = {
        "acts": fresh,
        "statements": [texts[act] for act in fresh],
        "salts": [secrets.token_bytes(32) for _ in fresh],
    }
    entered = set(await db.scalars(_ENTER, values)) if fresh else set()
    if waiting := set(fresh) - entered:
        before = await db.execute(
            select(col(LogPending.act), col(LogPending.statement)).where(among(LogPending.act, waiting))
        )
        known |= {row.act: row.statement for row in before}
    return known


def _problem(error: errors.VaultError) -> wire.Problem:
    return wire.Problem(
        type=f"urn:quancheng:problem:{error.slug}", title=error.title, status=error.status, slug=error.slug
    )


def _same_but_for_time(one: bytes, other: bytes) -> bool:
    if one == other:
        return True
    first, second = json.loads(one), json.loads(other)
    return {**first, "at": None} == {**second, "at": None}
