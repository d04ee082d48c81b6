"""What somebody has to look at: alarms that stand, and jobs that are dead."""

from __future__ import annotations

from services.vault.contract.wire.base import Message, Moment, Slug


class Alarm(Message):
    """Something in the vault is otherwise than it should be; `detail` is a Chinese sentence."""

    kind: Slug
    subject: str
    detail: str
    first_seen: Moment
    last_seen: Moment


class Alarms(Message):
    """The alarms that stand, the one last seen first; `more` where the limit left some out."""

    alarms: list[Alarm]
    more: bool


class DeadJob(Message):
    """A job that failed as often as it may: somebody has to look and let it be retried."""

    id: int
    kind: Slug
    subject: str
    entered_at: Moment
    died_at: Moment


class DeadJobs(Message):
    """Newest first; `next` is the `after` of the following page."""

    jobs: list[DeadJob]
    next: int | None


class JobKind(Message):
    """How many jobs of a kind wait, run and are dead, and since when the oldest that is due waits."""

    kind: Slug
    waiting: int
    running: int
    dead: int
    oldest_due: Moment | None


class JobSummary(Message):
    kinds: list[JobKind]
