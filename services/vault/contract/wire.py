"""The messages of the sealing cycle and of everything else the vault is asked, alike on every hop.

The terminal speaks `ExchangeRequest`/`ExchangeResult` with the api, and the api passes them on to the vault
unchanged. Limits are part of the message: what breaks one is refused before it reaches a verb.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID, uuid5

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

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

RECEIPT_TYPE = "application/vnd.quancheng.receipt.v1+json"
CLOSING_TYPE = "application/vnd.quancheng.closing.v1+json"
MANIFEST_TYPE = "application/vnd.quancheng.manifest.v1+json"

Media = Literal["init", "media", "file"]
"""`file`: a version of a series, whole."""
Lock = Literal["compliance", "none"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
KeyId = Sha256
ServerReason = Literal["idle", "endless", "lost", "revoked"]
"""Why a recording was closed without its source's signature: nothing came any more; the source never ends (a hall
camera) and the recording was long enough; the source has gone; its key was revoked."""
RevocationCode = Literal["compromised", "lost", "withdrawn"]
"""Why a key signs no more: somebody else has or may have it; nobody has it; it is out of use."""
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
    cannot sign has no key, and its recordings are closed by the server."""

    source: UUID
    key_id: KeyId | None
    started_at: Moment


class OpenSeries(Message):
    """A document or another single file begins; each of its versions is sealed as a segment is, and it has no
    closing. `source` is whoever keeps it."""

    source: UUID


def series_act(series: UUID, version: int, sha256: str) -> UUID:
    """The act under which the log tells of a version that was sealed."""
    return uuid5(series, f"{version} {sha256}")


def manifest_act(recording: UUID, number: int) -> UUID:
    """The act under which the log tells of a recording's manifest: known before it is told, and after a loss."""
    return uuid5(recording, f"manifest {number}")


class CloseRecording(Message):
    """The terminal's signed count and Merkle root (payload type `CLOSING_TYPE`)."""

    closing: Envelope

    @field_validator("closing")
    @classmethod
    def _bounded(cls, closing: Envelope) -> Envelope:
        if len(closing.payload) > MAX_CLOSING_BYTES:
            raise ValueError(f"at most {MAX_CLOSING_BYTES} characters")
        return closing


class CloseByServer(Message):
    reason: ServerReason


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


class Enrol(Message):
    """A recorder's public key (32 raw bytes, base64), entered in the log before it may sign anything."""

    recorder: UUID
    public_key: Annotated[str, StringConstraints(min_length=44, max_length=44)]


class RevokeEnrolment(Message):
    """The recorder's key opens, asks and closes nothing from here on; what it sealed stays valid. The same again
    answers the same index."""

    recorder: UUID
    code: RevocationCode
    reason: Annotated[str, StringConstraints(min_length=2, max_length=500, pattern=r"^[^\x00-\x1f]*$")]


class VaultKey(Message):
    """A key of the vault itself. `succession` is signed by the key it `replaces` and by itself, and without one
    nothing leads from the one to the other. `vkey` is a log key's, as note readers and witnesses take it."""

    purpose: Literal["receipt", "log"]
    key_id: KeyId
    public_key: Annotated[str, StringConstraints(min_length=44, max_length=44)]
    vkey: str | None
    since: Moment
    superseded_at: Moment | None
    retired_at: Moment | None
    revoked_at: Moment | None
    replaces: KeyId | None
    succession: Envelope | None
    act: UUID
    revoked_act: UUID | None


class VaultKeys(Message):
    """All of them, the newest first; of more than MAX_KEYS the newest."""

    origin: str
    keys: Annotated[list[VaultKey], Field(max_length=MAX_KEYS)]


class VaultIdentity(Message):
    """What a terminal pins at enrolment and a verifier compares out of band."""

    origin: str
    receipt_key: Annotated[str, StringConstraints(min_length=44, max_length=44)]
    receipt_key_id: KeyId
    log_vkey: str
    lock: Lock


class Append(Message):
    """An act of the api for the log. `act` makes it idempotent; the statement's other fields are free.

    With `proof` the answer carries its C2SP proof in the checkpoint that was just signed."""

    act: UUID
    kind: Literal["viewing", "export"]
    fields: dict[str, Any]
    proof: bool = False


class AppendMany(Message):
    """Any number of acts, each with its own outcome; one bad act spoils no other."""

    items: Annotated[list[Append], Field(min_length=1, max_length=MAX_APPENDS)]


class Appended(Message):
    act: UUID
    index: int
    tree_size: int
    proof: str | None = None


class ActProblem(Message):
    act: UUID
    problem: Problem


class AppendedMany(Message):
    """One entry for each act, in whichever list says what became of it."""

    appended: list[Appended]
    problems: list[ActProblem]


class LogProof(Message):
    act: UUID
    index: int
    statement: dict[str, Any]
    proof: str


class WitnessState(Message):
    """One witness of the log: what it cosigned last, and if it is away since when and why."""

    name: str
    vkey: str
    url: str
    cosigned_size: int
    away_since: Moment | None
    reason: Slug | None


class StampState(Message):
    """Trusted time: the newest stamped checkpoint, the authority's time and ours when it came, and since when a
    checkpoint waits for a token (None: none waits). Without authorities nobody is asked."""

    authorities: list[str]
    size: int | None
    stamped_at: Moment | None
    got_at: Moment | None
    waiting_since: Moment | None


class RebuildTold(Message):
    """The vault's database was made anew at `at`: what had an index from `size` on before then is lost, and whoever
    appended it appends it again."""

    at: Moment
    size: int


class LogState(Message):
    """How far the log is signed and published, and whether its witnesses keep up.

    `needed` of `witnesses` must cosign (0: none are asked). `cosigned` is how many cosigned the newest
    published checkpoint, `meets_policy` whether that is enough, `met_size` the newest size that had enough.
    """

    size: int
    published_size: int
    needed: int
    cosigned: int
    meets_policy: bool
    met_size: int | None
    witnesses: list[WitnessState]
    stamps: StampState
    rebuilds: list[RebuildTold] = []
    """The last of them first, at most twenty."""


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


Basis = Annotated[str, StringConstraints(min_length=2, max_length=500, pattern=r"^[^\x00-\x1f]*$")]


class SetTerm(Message):
    """Until when a recording is kept (None: for good), by which rule (`basis`), and the version of the bureau's
    schedule 保管期限表 that it was read from."""

    keep_until: Moment | None
    basis: Basis
    schedule: Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f]*$")] | None = None


class Term(SetTerm):
    at: Moment


class RetentionState(Message):
    """`ends_at` is when the term ends (None: never), `terms` what was set, the last first, at most a hundred.
    `locked_until` is the earliest date that the store was asked for among its objects (None: there are none).
    `holds` are the active ones."""

    ends_at: Moment | None
    locked_until: Moment | None
    holds: list[UUID]
    terms: list[Term]


class PlaceHold(Message):
    """A legal hold 复议诉讼留存 over these recordings for a case; the same again may bring more of them."""

    case: UUID
    reason: Annotated[str, StringConstraints(min_length=2, max_length=200, pattern=r"^[^\x00-\x1f]*$")]
    recordings: Annotated[list[UUID], Field(min_length=1, max_length=MAX_HELD_AT_ONCE)]


class Hold(Message):
    """`objects` of its recordings are sealed, and `settled` of them are flagged in the store as they should be: a
    hold is placed, or its release done, where the two are equal."""

    id: UUID
    case: UUID
    reason: str
    state: Literal["active", "released"]
    recordings: int
    objects: int
    settled: int
    placed_at: Moment
    released_at: Moment | None


class Holds(Message):
    """Newest first; `next` is the `after` of the following page. Without the counts, which cost a look at each."""

    holds: list[Hold]
    next: UUID | None


class Tombstone(Message):
    """What is left of a disposed recording: signed by the vault, and sealed in its place."""

    tombstone: Envelope
    sha256: Sha256
    act: UUID


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


class ReadTicketsRequest(Message):
    items: Annotated[list[SegmentName], Field(min_length=1, max_length=MAX_ITEMS)]


class ReadTicket(SegmentName):
    """A short-lived GET that passes only between vault, api and store, never to a viewer."""

    url: str
    headers: dict[str, str]
    size: int


class ReadTickets(Message):
    tickets: list[ReadTicket]


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
