"""Wire types of requests for footage and of handovers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from services.vault.contract.wire import Moment, Sha256

KEPT_FOR = timedelta(days=30)
"""What a hall keeps at the least (公共安全视频图像信息系统管理条例 17)."""
LAPSES_SOON = timedelta(days=7)
LONGEST_STRETCH = timedelta(days=31)
MAX_CAMERAS = 20
_AHEAD = timedelta(minutes=5)
"""How far another clock may be ahead of this one."""

RequestState = Literal["asked", "handed-over", "refused", "lapsed"]
"""`lapsed`: the hall need not have the footage any more, and nobody has answered."""
_PLAIN = "^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$"
Line = Annotated[str, StringConstraints(min_length=1, max_length=128, strip_whitespace=True, pattern=_PLAIN)]
Reason = Annotated[str, StringConstraints(min_length=2, max_length=500, strip_whitespace=True, pattern=_PLAIN)]


class _Stretch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    from_at: Moment
    to_at: Moment

    @model_validator(mode="after")
    def _is_a_stretch(self) -> Self:
        if not timedelta(0) < self.to_at - self.from_at <= LONGEST_STRETCH:
            raise ValueError(f"a stretch of at most {LONGEST_STRETCH.days} days")
        if self.from_at > datetime.now(UTC) + _AHEAD:
            raise ValueError("nothing is recorded yet of what lies ahead")
        return self


class NewRequest(_Stretch):
    """Which hall cameras, which stretch, why. `kept_until` is what the hall says; where it says nothing, what the law
    has it keep: thirty days from the first moment of the stretch."""

    cameras: Annotated[list[UUID], Field(min_length=1, max_length=MAX_CAMERAS)]
    reason: Reason
    kept_until: Moment | None = None

    def lapses_at(self) -> datetime:
        return self.kept_until or self.from_at + KEPT_FOR


class NewRefusal(BaseModel):
    model_config = ConfigDict(extra="forbid")

    answer: Reason


class NewHandover(_Stretch):
    """From which hall's system and camera, which stretch, by whom, when; `export_sha256` is the digest of their
    export where they gave one. It answers the `request`. Whoever is signed in took it over."""

    source: UUID
    request: UUID | None = None
    hall: Line
    system: Line
    camera: Line
    handed_over_by: Annotated[Line, StringConstraints(max_length=64)]
    taken_over_at: Moment
    export_sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _has_happened(self) -> Self:
        if self.taken_over_at > datetime.now(UTC) + _AHEAD:
            raise ValueError("taken over in the future")
        return self


class HandoverView(BaseModel):
    id: UUID
    source: UUID
    source_name: str
    request: UUID | None
    hall: str
    system: str
    camera: str
    from_at: datetime
    to_at: datetime
    handed_over_by: str
    taken_over_by: str
    taken_over_at: datetime
    export_sha256: str | None


class Camera(BaseModel):
    id: UUID
    name: str


class RequestView(BaseModel):
    """`lapses_soon`: within seven days, and nobody has answered. `below_floor`: the hall says that it keeps the
    footage for less than the law has it."""

    id: UUID
    state: RequestState
    lapses_soon: bool
    below_floor: bool
    cameras: list[Camera]
    from_at: datetime
    to_at: datetime
    kept_until: datetime
    reason: str
    asked_by: str
    asked_at: datetime
    answered_by: str | None
    answered_at: datetime | None
    answer: str | None


class RequestDetail(RequestView):
    """With what was handed over, and the recordings and files that were imported with that."""

    handovers: list[HandoverView]
    recordings: list[UUID]
    files: list[UUID]


class RequestPage(BaseModel):
    items: list[RequestView]
    next_cursor: str | None
