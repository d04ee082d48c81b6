"""Dead jobs, for the administrator who has to look: seen, and retried once the cause is gone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from services.api import jobs
from services.api.database import Engine
from services.api.identity.dependencies import Acting, SignedIn
from services.api.jobs.schemas import DeadJobPage, DeadJobView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
_LARGEST = 2**63 - 1


@router.get("/dead")
async def dead(
    who: SignedIn,
    engine: Engine,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> DeadJobPage:
    """Newest first. A cursor that is not ours is taken as none."""
    who.require("tend-jobs")
    after = int(cursor) if cursor and cursor.isascii() and cursor.isdigit() else None
    found = await jobs.dead(engine, after=after if after and after <= _LARGEST else None, limit=limit + 1)
    items = [DeadJobView.model_validate(job, from_attributes=True) for job in found[:limit]]
    return DeadJobPage(items=items, next_cursor=str(items[-1].id) if len(found) > limit else None)


@router.post("/{job}/retry", status_code=204)
async def retry(job: Annotated[int, Path(ge=1, le=_LARGEST)], who: Acting, engine: Engine) -> None:
    """Let it be tried again, as if it had never been."""
    who.require("tend-jobs")
    await jobs.retry(engine, job)
