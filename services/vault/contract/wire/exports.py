"""Exports: what is asked for, and how far each has come."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from services.vault.contract.wire.base import MAX_EXPORTED, MAX_EXPORTED_OF_CASE, Message, Moment, Slug


class ExportRequest(Message):
    """`act` names the api's export act, which stands in the log first and says the same. More than a thousand
    recordings only for a case. With `copies` a plain MP4 of each closed recording is added."""

    act: UUID
    recordings: Annotated[list[UUID], Field(max_length=MAX_EXPORTED_OF_CASE)] = []
    series: Annotated[list[UUID], Field(max_length=MAX_EXPORTED)] = []
    person: UUID
    case: UUID | None = None
    copies: bool = False

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if not self.recordings and not self.series:
            raise ValueError("an export is of something")
        if len(self.recordings) > MAX_EXPORTED and self.case is None:
            raise ValueError(f"at most {MAX_EXPORTED} recordings, {MAX_EXPORTED_OF_CASE} for a case")
        if len({*self.recordings, *self.series}) < len(self.recordings) + len(self.series):
            raise ValueError("each but once")
        return self

    def told(self) -> dict[str, Any]:
        """The fields that the statement of the act has, beside its purpose."""
        fields: dict[str, Any] = {"recordings": [str(one) for one in self.recordings], "person": str(self.person)}
        fields |= {"series": [str(one) for one in self.series]} if self.series else {}
        fields |= {"case": str(self.case)} if self.case else {}
        return fields | ({"copies": True} if self.copies else {})


ExportPhase = Literal["waiting", "preparing", "ready", "failed", "lapsed"]


class ExportState(Message):
    """How far an export is: bytes of media looked at and to be looked at; once it is *ready* the tar's size and its
    ETag (without quotes). `reason` is a slug and `detail` a Chinese sentence where it failed."""

    act: UUID
    state: ExportPhase
    person: UUID
    requested_at: Moment
    expires_at: Moment
    bytes_done: int
    bytes_total: int
    files: int
    size: int
    etag: str | None
    reason: Slug | None
    detail: str | None


class ExportStatesRequest(Message):
    acts: Annotated[list[UUID], Field(min_length=1, max_length=200)]


class ExportStates(Message):
    """Those of the acts asked for that an export was begun for."""

    exports: list[ExportState]


class ExportList(Message):
    """Newest first; `next` is the `after` of the following page."""

    exports: list[ExportState]
    next: UUID | None
