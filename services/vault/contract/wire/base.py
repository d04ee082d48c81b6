"""What every message is made of: limits, times, the bytes that are signed, problems and envelopes."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

MAX_SEGMENT_BYTES = 64 * 1024 * 1024
MAX_ITEMS = 64
MAX_APPENDS = 256
MAX_SEQUENCE = 2**31 - 1
MAX_DIGESTS_PER_SEQUENCE = 4
MAX_SUPPLEMENTS = 9999
MAX_HELD_AT_ONCE = 5000
MAX_KEYS = 500
MAX_EXPORTED, MAX_EXPORTED_OF_CASE = 1000, 5000
MAX_MESSAGE_BYTES = 1024 * 1024
MAX_CLOSING_BYTES = 4 * 1024 * 1024
TICKET_SECONDS = 14 * 60
"""Seconds a ticket lives; DESIGN allows 15 minutes and the store refuses more than 15 of clock skew."""
Lock = Literal["compliance", "none"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
KeyId = Sha256
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,63}$")]


def _to_utc_milliseconds(value: datetime) -> datetime:
    # A clock may be wrong by years; by centuries it is no clock, and the calendar's ends do not compute.
    if not 1970 <= value.year <= 2200:
        raise ValueError("a time between 1970 and 2200")
    value = value.astimezone(UTC)
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


Moment = Annotated[AwareDatetime, AfterValidator(_to_utc_milliseconds)]
"""A time with zone, kept in UTC to the millisecond, so that it survives the wire and the signature unchanged."""


def rfc3339(moment: datetime) -> str:
    """`2026-11-23T17:34:40.123Z`: the one way a time is written in anything that is signed or logged."""
    return _to_utc_milliseconds(moment).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def canonical(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8: the bytes of everything that is signed or logged."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Message):
    """RFC 9457 problem: `title` is a Chinese sentence for people, `slug` an English word for programs."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    title: str
    status: int
    slug: Slug
    detail: str | None = None
    trace_id: str | None = None


class Signature(Message):
    keyid: KeyId
    sig: Annotated[str, StringConstraints(max_length=128)]


class Envelope(Message):
    """A DSSE envelope (secure-systems-lab/dsse v1)."""

    payloadType: Annotated[str, StringConstraints(max_length=128)]
    payload: str
    signatures: Annotated[list[Signature], Field(min_length=1, max_length=8)]

    def decoded(self) -> dict[str, Any]:
        """The payload without any check: whoever relies on it verifies the envelope first."""
        decoded: dict[str, Any] = json.loads(base64.b64decode(self.payload))
        return decoded
