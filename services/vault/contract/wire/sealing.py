"""The sealing cycle: ask, ticket, receipt; recordings and series from their opening to their manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from uuid import UUID, uuid5

from pydantic import Field, StringConstraints, field_validator, model_validator

from services.vault.contract.wire.base import (
    MAX_CLOSING_BYTES,
    MAX_ITEMS,
    MAX_SEGMENT_BYTES,
    MAX_SEQUENCE,
    Envelope,
    KeyId,
    Lock,
    Message,
    Moment,
    Sha256,
    Slug,
    rfc3339,
)

RECEIPT_TYPE = "application/vnd.quancheng.receipt.v1+json"
CLOSING_TYPE = "application/vnd.quancheng.closing.v1+json"
MANIFEST_TYPE = "application/vnd.quancheng.manifest.v1+json"

Media = Literal["init", "media", "file"]
"""`file`: a version of a series, whole."""
Format = Literal["mp4", "ts", "mov", "avi", "mkv", "jpg", "png", "wav", "mp3", "pdf", "bin"]
"""What the segments of a recording are, joined in order, by the extension of such a file. Fragmented `mp4` has its
initial segment first, `ts` has none; the others are whole files cut into pieces."""
Remuxer = Annotated[
    str, StringConstraints(pattern="^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]{1,64}$")
]
"""The name of a gateway, without control characters, those that turn the direction of text among them."""
ServerReason = Literal["idle", "endless", "lost", "revoked", "complete", "cancelled"]
"""Why a recording was closed without its source's signature: nothing came any more; the source never ends (a hall
camera) and the recording was long enough; the source has gone; its key was revoked; an uploaded file is complete, or
whoever uploaded it gave it up."""
TakeoverReason = Literal["no-link", "device-cannot-stream", "recovered", "other"]
"""Why a file comes afterwards and was not streamed (article 33(2)): there was no link; the device cannot; the device
was repaired or found again; anything else, which its keeper has a note of."""


class SegmentName(Message):
    """What a receipt is idempotent by, within its recording."""

    sequence: Annotated[int, Field(ge=0, le=MAX_SEQUENCE)]
    sha256: Sha256


class SegmentAsk(SegmentName):
    """Step 1: the holder of these bytes asks to put them.

    In a series the sequence is the version, from 1, and `metadata_sha256` may stand for what its keeper records of
    it: the digest alone enters receipt and log, so it should be taken over something that cannot be guessed.

    `started_at` is the device's clock at the first frame, `monotonic_ms` its counter that never steps back;
    both are kept beside the vault's own time and none is corrected by another.
    """

    size: Annotated[int, Field(ge=1, le=MAX_SEGMENT_BYTES)]
    media: Media
    started_at: Moment
    duration_ms: Annotated[int, Field(ge=0, le=600_000)]
    monotonic_ms: Annotated[int, Field(ge=0, le=2**53)]
    metadata_sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _metadata_is_a_file_s(self) -> Self:
        if self.metadata_sha256 and self.media != "file":
            raise ValueError("only a file has metadata")
        return self


class Ticket(SegmentName):
    """Step 2: a fully signed PUT for exactly these bytes; send every header as given, add none."""

    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    expires_at: Moment


class SealedSegment(SegmentName):
    """Step 5: stored, checked, signed. `receipt` is the signed envelope; the other fields repeat its payload
    so that the api need not open it to index the segment."""

    size: int
    media: Media
    started_at: Moment
    duration_ms: int
    received_at: Moment
    sealed_at: Moment
    lock: Lock
    receipt: Envelope


class ItemProblem(SegmentName):
    slug: Slug
    title: str


class ExchangeRequest(Message):
    asks: Annotated[list[SegmentAsk], Field(max_length=MAX_ITEMS)] = []
    commits: Annotated[list[SegmentName], Field(max_length=MAX_ITEMS)] = []


class ExchangeResult(Message):
    """One entry for each ask and each commit, in whichever list says what became of it.

    An ask for what is already sealed answers with its receipt. `segment_seconds` is how long the terminal
    should make the segments it cuts from now on (1 while somebody watches).
    """

    tickets: list[Ticket] = []
    sealed: list[SealedSegment] = []
    problems: list[ItemProblem] = []
    segment_seconds: Annotated[int, Field(ge=1, le=10)] = 4


class OpenRecording(Message):
    """A recording begins; `source` and `key_id` name the enrolment whose key will sign its closing. A source that
    cannot sign has no key, and its recordings are closed by the server. `remuxed_by` names the media gateway that
    took the media apart and together again before they came here."""

    source: UUID
    key_id: KeyId | None
    started_at: Moment
    format: Format = "mp4"
    remuxed_by: Remuxer | None = None


class OpenSeries(Message):
    """A document or another single file begins; each of its versions is sealed as a segment is, and it has no
    closing. `source` is whoever keeps it."""

    source: UUID


def media_told(format: str, remuxed_by: str | None) -> dict[str, str]:  # noqa: A002
    """What receipts, manifests and intents say of a recording's media: nothing of what is as by default, so that they
    stay the same to the byte."""
    told = {} if format == "mp4" else {"format": format}
    return told | ({} if remuxed_by is None else {"remuxed_by": remuxed_by})


def media_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """Format and remuxer, from what says them as `media_told` does."""
    return {"format": told.get("format", "mp4"), "remuxed_by": told.get("remuxed_by")}


def series_act(series: UUID, version: int, sha256: str) -> UUID:
    """The act under which the log tells of a version that was sealed."""
    return uuid5(series, f"{version} {sha256}")


def manifest_act(recording: UUID, number: int) -> UUID:
    """The act under which the log tells of a recording's manifest: known before it is told, and after a loss."""
    return uuid5(recording, f"manifest {number}")


class TakenOver(Message):
    """What a terminal's closing says of a finished file that it took over from a recorder and sealed unaltered.

    `at` is the terminal's clock. What is known of the recorder's own is `modified_at`, the file system's time of last
    modification, and `created_at`, which an MP4 or MOV says of itself; either may be wrong by the recorder's zone.
    """

    sha256: Sha256
    size: Annotated[int, Field(ge=1)]
    format: Format
    at: Moment
    reason: TakeoverReason
    modified_at: Moment | None
    created_at: Moment | None

    def told(self) -> dict[str, Any]:
        """As it stands in what is signed."""
        times = {name: getattr(self, name) for name in ("at", "modified_at", "created_at")}
        said = {name: moment and rfc3339(moment) for name, moment in times.items()}
        return self.model_dump(include=TakenOver.model_fields.keys() - times.keys()) | said


class CloseRecording(Message):
    """The terminal's signed count and Merkle root (payload type `CLOSING_TYPE`)."""

    closing: Envelope

    @field_validator("closing")
    @classmethod
    def _bounded(cls, closing: Envelope) -> Envelope:
        if len(closing.payload) > MAX_CLOSING_BYTES:
            raise ValueError(f"at most {MAX_CLOSING_BYTES} characters")
        return closing


class Whole(Message):
    """A file that was uploaded in pieces: its digest, its size, and the Merkle root over the segments that make it
    up, from sequence 0 on, which decides between digests of one sequence."""

    sha256: Sha256
    size: Annotated[int, Field(ge=1)]
    root: Sha256


class CloseByServer(Message):
    reason: ServerReason
    whole: Whole | None = None

    @model_validator(mode="after")
    def _complete_is_whole(self) -> Self:
        if (self.reason == "complete") != (self.whole is not None):
            raise ValueError("what is complete has a whole, and nothing else has")
        return self


class ClosedRecording(Message):
    """One manifest of a recording: the first has number 0, and what came after its closing is in supplements."""

    recording: UUID
    number: int = 0
    closed_by: Literal["terminal", "server"] = "terminal"
    segments: int
    bytes: int
    ended_at: Moment
    closed_at: Moment
    lock: Lock
    manifest: Envelope
    manifest_sha256: Sha256
    log_act: UUID
