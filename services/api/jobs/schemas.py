"""Wire types of jobs."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel


class DeadJobView(BaseModel):
    """A job that failed until nobody tries any more; `subject` names what it is about."""

    id: int
    kind: str
    subject: str
    entered_at: datetime
    died_at: datetime


class DeadJobPage(BaseModel):
    items: list[DeadJobView]
    next_cursor: str | None
