"""What is heard from an S3 store: what a HEAD tells, its clock, and whether it is full.

A store refuses what is signed more than fifteen minutes away from its own clock. Ours may be stepped while we run,
and commits and reads go on then (only tickets and disposal stop: `watch`, `disposal`), so requests are signed by the
store's clock once it has refused one signed by ours. How far the two clocks differ is still measured against ours.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from services.vault.errors import ClockDrift, StoreFull, StoreUnavailable
from services.vault.stores.calls import Answer
from services.vault.stores.port import StoredName, StoredObject

FULL = 507
INTENT = "x-amz-meta-quancheng-intent"
"""The header by which a ticket signs its intent into an object."""
_XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_TOLERANCE = timedelta(seconds=60)
_FARTHEST = timedelta(days=367)


def clock_of(headers: Mapping[str, str]) -> datetime | None:
    """The store's time in whole seconds, or None where it does not tell."""
    try:
        return datetime.strptime(headers["date"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except (KeyError, ValueError):
        return None


def refusal(status: int, code: str, what: str) -> StoreUnavailable:
    """The error for an answer that is none of those expected. MinIO answers 507 where its disk is full."""
    kind = StoreFull if status == FULL or code == "XMinioStorageFull" else StoreUnavailable
    return kind(f"{what} answered {status}" + (f": {code}" if code else ""))


class Hearing:
    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        """The time that requests are signed by."""
        return datetime.now(UTC) + self._ahead

    def lockable(self, until: datetime) -> datetime:
        """Raises ClockDrift for a date so far ahead that only a wrong clock can have named it: a lock cannot be
        taken back."""
        if until > self.now() + _FARTHEST:
            raise ClockDrift(f"a lock until {until:%Y-%m-%d} is more than a year ahead of the store's clock")
        return until

    def refused(self, status: int, headers: Mapping[str, str]) -> bool:
        """Whether what was refused was signed by another clock than the answer's, which is then taken up."""
        told = clock_of(headers) if status == 403 else None
        if told is None or abs(told - self.now()) <= _TOLERANCE:
            return False
        ahead = told - datetime.now(UTC)
        self._ahead = ahead if abs(ahead) > _TOLERANCE else timedelta()
        return True

    async def asked(self, send: Callable[[datetime], Awaitable[Answer]]) -> Answer:
        """The answer to what `send` sends, signed by the time it is given; sent again where it was refused and the
        store's clock turns out to be another."""
        answer = await send(self.now())
        return await send(self.now()) if self.refused(answer.status_code, answer.headers) else answer


def stored_object(key: str, found: Mapping[str, str]) -> StoredObject:
    """What a HEAD told. What cannot be read is taken as not told, which fits no intent."""
    until = found.get("x-amz-object-lock-retain-until-date")
    try:
        sha256 = base64.b64decode(found.get("x-amz-checksum-sha256", ""), validate=True).hex()
        retain_until = datetime.fromisoformat(until) if until else None
        size = int(found.get("content-length", "-1"))
    except ValueError:
        sha256, retain_until, size = "", None, -1
    return StoredObject(
        key=key,
        version=found.get("x-amz-version-id", ""),
        size=size,
        sha256=sha256,
        lock="compliance" if found.get("x-amz-object-lock-mode") == "COMPLIANCE" else "none",
        retain_until=retain_until if retain_until is None or retain_until.tzinfo else None,
        held=found.get("x-amz-object-lock-legal-hold") == "ON",
        intent=found.get(INTENT, ""),
    )


def code_of(answer: str) -> str:
    """The store's own word for its refusal, such as `InvalidRequest`."""
    return answer.partition("<Code>")[2].partition("</Code>")[0]


def names_of(page: bytes) -> tuple[list[StoredName], dict[str, str]]:
    """The versions that a page of a listing tells, and after which to ask for the next; nothing at the last."""
    # The store's own answer, at most a thousand names long.
    root = ElementTree.fromstring(page)  # noqa: S314
    names = []
    for each in root:
        if each.tag in (f"{_XML}Version", f"{_XML}DeleteMarker"):
            key, version = (each.findtext(f"{_XML}{name}", "") for name in ("Key", "VersionId"))
            size = int(each.findtext(f"{_XML}Size", "0"))
            names.append(StoredName(unquote_plus(key), version, size, each.tag == f"{_XML}DeleteMarker"))
    if root.findtext(f"{_XML}IsTruncated") != "true":
        return names, {}
    key, version = (root.findtext(f"{_XML}Next{name}Marker", "") for name in ("Key", "VersionId"))
    return names, {"key-marker": unquote_plus(key), "version-id-marker": version}


def keys_of(page: bytes) -> list[str]:
    """The keys of a listing without versions."""
    root = ElementTree.fromstring(page)  # noqa: S314
    return [each.text or "" for each in root.iter(f"{_XML}Key")]
