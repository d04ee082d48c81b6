"""Wire types of single files."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from services.api.recordings.files.kinds import Shown
from services.api.recordings.schemas import NewUse
from services.api.recordings.worth import Worth
from services.vault.contract.wire import Envelope, Moment

FileKind = Literal["photo", "sound", "document", "result"]
FileState = Literal["awaiting", "sealed"]
SHOWN = "^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$"
"""Text on one line, without characters that control or turn it."""


def _line(most: int) -> Any:
    return StringConstraints(min_length=1, max_length=most, strip_whitespace=True, pattern=SHOWN)


class FileAbout(BaseModel):
    """What is said of a file before its bytes come. `taken_at` is when it was made, as whoever brings it says.

    A `result` names the instrument with its number, its calibration certificate with the day up to which that holds,
    the reading with its unit, and when it was measured; nothing else does.
    """

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, _line(200)] | None = None
    taken_at: Moment | None = None
    instrument: Annotated[str, _line(64)] | None = None
    instrument_number: Annotated[str, _line(64)] | None = None
    certificate: Annotated[str, _line(64)] | None = None
    certificate_expires_on: date | None = None
    reading: Annotated[str, _line(64)] | None = None
    reading_unit: Annotated[str, _line(16)] | None = None
    measured_at: Moment | None = None
    handover: UUID | None = None
    """The import that it came with: see `/v1/handovers`."""
    name: Annotated[str, StringConstraints(max_length=255, pattern=SHOWN)] | None = None
    """What the file was called where it comes from; shown, never believed."""

    def said(self) -> dict[str, Any]:
        """As it is kept and compared."""
        return self.model_dump(mode="json", exclude={"kind", "handover", "name"}, exclude_none=True)


MEASURED = (
    "instrument",
    "instrument_number",
    "certificate",
    "certificate_expires_on",
    "reading",
    "reading_unit",
    "measured_at",
)


class NewFile(FileAbout):
    kind: FileKind

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.title is None:
            raise ValueError("a file has a title")
        for name in MEASURED:
            if (getattr(self, name) is not None) != (self.kind == "result"):
                raise ValueError(f"`{name}` belongs to a result, and every result has it")
        return self


class FileQuery(FileAbout):
    """The same in a query; nothing at all where it was told before."""

    kind: FileKind | None = None


class VersionView(BaseModel):
    """`facts` are stated and refuse nothing: `certificate-expired`, the certificate no longer held when it was
    measured. `exif_time` is what the photo says of itself, in whatever zone its camera was; nobody has checked it."""

    version: int
    sha256: str
    size: int
    format: str
    name: str | None
    facts: list[Literal["certificate-expired"]]
    exif_time: str | None
    door: Literal["simple", "resumable"]
    received_at: datetime
    sealed_at: datetime
    lock: Literal["compliance", "none"]


class FileView(BaseModel):
    """`trouble`: the problem for which the bytes that came last by the resumable door were not taken."""

    id: UUID
    kind: FileKind
    state: FileState
    title: str
    about: dict[str, Any]
    handover: UUID | None
    source: UUID | None
    source_name: str | None
    person_name: str | None
    unit_name: str
    created_at: datetime
    version: int
    trouble: str | None
    worth: Worth
    versions: Annotated[list[VersionView], Field(description="the newest first")]


class FileList(BaseModel):
    items: list[FileView]
    next_cursor: str | None


class ToldFile(BaseModel):
    """A file that waits for its bytes."""

    id: UUID
    state: FileState
    version: int


class SealedFile(BaseModel):
    """The answer to whoever brought it: the same for the same bytes. The receipt is the vault's."""

    id: UUID
    version: int
    sha256: str
    size: int
    format: str
    facts: list[str]
    exif_time: str | None
    receipt: Envelope


class NewFileViewing(NewUse):
    """Of the newest version, or of the one that is named."""

    version: Annotated[int, Field(ge=1)] | None = None


class FileViewing(BaseModel):
    """Where one version's bytes are, for as long as the viewing lasts. `shown`: a browser shows it by itself; what
    it does not show is handed out to be kept."""

    id: UUID
    content: str
    until: datetime
    shown: Shown | None
