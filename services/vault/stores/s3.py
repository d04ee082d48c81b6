"""Any S3 with Object Lock (MinIO by default). With `setup` the only file that imports `minio`.

The running vault knows three identities and no more: *put* signs tickets and can only put and lock; *keep*
reads and heads evidence and writes the plain log and staging buckets; *probe* may do everything, on the probe
bucket alone. *dispose* deletes versions and is made by `setup`, which alone uses the store's administrator and is
run by a command of its own, never by the service.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import quote, urlencode, urlsplit

from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3
from minio.time import to_amz_date
from pydantic import SecretStr

from services.vault.contract.wire import TICKET_SECONDS, Lock
from services.vault.errors import NotInStore, StillLocked, StoredDiffers, StoreUnavailable
from services.vault.settings import Settings
from services.vault.stores.calls import Answer, Calls, chunk_of
from services.vault.stores.hearing import (
    FULL,
    INTENT,
    Hearing,
    clock_of,
    code_of,
    keys_of,
    names_of,
    refusal,
    stored_object,
)
from services.vault.stores.port import GetTicket, Part, PutTicket, StoredName, StoredObject

_UNSIGNED = "UNSIGNED-PAYLOAD"
_EMPTY = hashlib.sha256(b"").hexdigest()
_NO_EXTRACT = {"x-amz-meta-snowball-auto-extract": "false"}
"""MinIO unpacks a tar that is put with this header set to true, into any keys of the bucket, and the header
need not be signed to be obeyed. Signed as false it cannot be set."""
_ASK_CHECKSUM = {"x-amz-checksum-mode": "ENABLED"}
Who = Literal["put", "keep", "probe"]
Bucket = Literal["evidence", "log", "probe", "staging"]
_PAGE = 1000


def _store_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class S3Store:
    lock: Lock = "compliance"

    def __init__(self, settings: Settings):
        assert settings.s3_put_secret_key and settings.s3_keep_secret_key  # settings checked it
        assert settings.s3_put_access_key and settings.s3_keep_access_key
        assert settings.s3_probe_access_key and settings.s3_probe_secret_key
        self._base = f"{'https' if settings.s3_secure else 'http'}://{settings.s3_endpoint}"
        told = settings.s3_tickets_secure
        self._outside = self._base if told is None else f"{'https' if told else 'http'}://{settings.s3_endpoint}"
        self._region = settings.s3_region
        self._evidence, self._log = settings.s3_evidence_bucket, settings.s3_log_bucket
        self._put = Credentials(settings.s3_put_access_key, settings.s3_put_secret_key.get_secret_value())
        self._keep = Credentials(settings.s3_keep_access_key, settings.s3_keep_secret_key.get_secret_value())
        self._probe = Credentials(settings.s3_probe_access_key, settings.s3_probe_secret_key.get_secret_value())
        self._buckets = {"evidence": self._evidence, "log": self._log, "probe": settings.s3_probe_bucket}
        self._heard = Hearing()
        self._buckets["staging"] = settings.s3_staging_bucket
        self.calls = Calls()

    async def start(self) -> None:
        """Nothing: whether the store is fit is `conformance.require`'s to say, and connections open by themselves."""

    async def stop(self) -> None:
        await self.calls.aclose()

    def put_ticket(
        self, key: str, sha256: str, size: int, retain_until: datetime, now: datetime, intent: str = ""
    ) -> PutTicket:
        headers = {
            "content-length": str(size),
            "if-none-match": "*",
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
            "x-amz-object-lock-mode": "COMPLIANCE",
            "x-amz-object-lock-retain-until-date": _store_time(retain_until),
            **_NO_EXTRACT,
            **({INTENT: intent} if intent else {}),
        }
        url = self._url(self._evidence, key)
        signed = self._signed("PUT", url, headers, self._put, _UNSIGNED, now)
        return PutTicket(url.replace(self._base, self._outside, 1), signed, now + timedelta(seconds=TICKET_SECONDS))

    def get_ticket(self, key: str, version: str, now: datetime) -> GetTicket:
        url = self._url(self._evidence, key, f"versionId={quote(version, safe='')}")
        skew = self._heard.now() - datetime.now(UTC)
        return GetTicket(url, self._signed("GET", url, {}, self._keep, _EMPTY, now + skew))

    async def head(self, key: str, version: str | None = None) -> StoredObject | None:
        response = await self._keep_call(
            "HEAD", self._evidence, key, _version(version), headers=_ASK_CHECKSUM, absent_is_none=True
        )
        return None if response.status_code == 404 else stored_object(key, response.headers)

    async def drift(self) -> timedelta:
        asked = datetime.now(UTC)
        response = await self._keep_call("GET", self._evidence, "", "versioning=", absent_is_none=True)
        answered = datetime.now(UTC)
        if (clock := clock_of(response.headers)) is None:
            raise StoreUnavailable("the store does not tell its time")
        # The header is cut to whole seconds, so the true time lies within the second after it.
        ahead, behind = clock - answered, asked - (clock + timedelta(seconds=1))
        return max(ahead, timedelta()) or -max(behind, timedelta())

    async def put(self, key: str, data: bytes, retain_until: datetime) -> StoredObject:
        sha256 = hashlib.sha256(data).hexdigest()
        url = self._url(self._evidence, key)

        def send(now: datetime) -> Awaitable[Answer]:
            ticket = self.put_ticket(key, sha256, len(data), self._heard.lockable(retain_until), now)
            return self.calls.ask("PUT", url, ticket.headers, data)

        response = await self._heard.asked(send)
        if response.status_code not in (200, 412):
            raise refusal(response.status_code, code_of(response.text), "PUT")
        found = await self.head(key)
        if found is None or found.sha256 != sha256 or found.lock != self.lock:
            raise StoredDiffers(f"{key} is not what was put")
        return found

    async def extend(self, key: str, version: str, retain_until: datetime) -> None:
        until = f"<RetainUntilDate>{_store_time(self._heard.lockable(retain_until))}</RetainUntilDate>"
        body = f"<Retention><Mode>COMPLIANCE</Mode>{until}</Retention>"
        try:
            await self._change("retention", key, version, body)
        except StoreUnavailable:
            # The store refuses to shorten: what is locked for longer already is as it was asked to be.
            found = await self.head(key, version)
            if (
                found is None
                or found.retain_until is None
                or found.retain_until < retain_until.replace(microsecond=0)
            ):
                raise

    async def hold(self, key: str, version: str, on: bool) -> None:
        await self._change(
            "legal-hold", key, version, f"<LegalHold><Status>{'ON' if on else 'OFF'}</Status></LegalHold>"
        )

    async def _change(self, part: str, key: str, version: str, body: str) -> None:
        content = body.encode()
        url = self._url(self._evidence, key, f"{part}=&versionId={quote(version, safe='')}")
        headers = {"content-md5": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()}
        payload = hashlib.sha256(content).hexdigest()

        def send(now: datetime) -> Awaitable[Answer]:
            return self.calls.ask("PUT", url, self._signed("PUT", url, headers, self._keep, payload, now), content)

        response = await self._heard.asked(send)
        if response.status_code == 404:
            raise NotInStore(f"{key} version {version}")
        if response.status_code != 200:
            raise refusal(response.status_code, code_of(response.text), f"PUT {part} of {key}")

    async def delete(self, key: str, version: str, who: Credentials) -> None:
        """As `who`: none of the identities this store knows by itself may."""
        url = self._url(self._evidence, key, f"versionId={quote(version, safe='')}")

        def send(now: datetime) -> Awaitable[Answer]:
            return self.calls.ask("DELETE", url, self._signed("DELETE", url, {}, who, _EMPTY, now))

        response = await self._heard.asked(send)
        if response.status_code == 400:
            raise StillLocked(f"{key}: {code_of(response.text)}")
        if response.status_code not in (200, 204, 404):
            raise StoreUnavailable(f"DELETE {key} answered {response.status_code}: {code_of(response.text)}")

    async def unpublish(self, folder: str) -> int:
        assert folder.endswith(".p/")  # and the policy of *keep* allows nothing else to be deleted
        keys = await self.names("log", {"list-type": "2", "prefix": folder})  # fewer than 256
        for key in keys:
            await self._remove(key)
        return len(keys)

    async def names(self, bucket: Bucket, asked: dict[str, str]) -> list[str]:
        """One page of a plain bucket's keys."""
        query = urlencode(sorted(asked.items()), quote_via=quote, safe="-_.~")
        return keys_of((await self._keep_call("GET", self._buckets[bucket], "", query)).content)

    async def _remove(self, path: str) -> None:
        url = self._url(self._log, path)

        def send(now: datetime) -> Awaitable[Answer]:
            return self.calls.ask("DELETE", url, self._signed("DELETE", url, {}, self._keep, _EMPTY, now))

        response = await self._heard.asked(send)
        if response.status_code not in (200, 204, 404):
            raise refusal(response.status_code, code_of(response.text), f"DELETE {path}")

    async def list(self, prefix: str) -> AsyncIterator[StoredName]:
        asked = {"encoding-type": "url", "max-keys": str(_PAGE), "prefix": prefix, "versions": ""}
        after: dict[str, str] = {}
        while True:
            query = urlencode(sorted({**asked, **after}.items()), quote_via=quote, safe="-_.~")
            page = await self._keep_call("GET", self._evidence, "", query)
            names, after = names_of(page.content)
            for name in names:
                yield name
            if not after:
                return

    async def read(self, key: str, version: str, part: Part | None = None) -> AsyncIterator[bytes]:
        ticket = self.get_ticket(key, version, datetime.now(UTC))
        async for chunk in self.fetch(ticket, part):
            yield chunk

    async def fetch(self, ticket: GetTicket, part: Part | None) -> AsyncIterator[bytes]:
        """What lies there, or a part of it. Raises NotInStore."""
        headers = ticket.headers | ({"range": f"bytes={part[0]}-{part[1] - 1}"} if part else {})
        async with self.calls.reading(ticket.url, headers) as response:
            if response.status == 404:
                raise NotInStore(urlsplit(ticket.url).path)
            if response.status != (206 if part else 200):
                self._heard.refused(response.status, response.headers)
                raise StoreUnavailable(f"GET answered {response.status}")
            while chunk := await chunk_of(response):
                yield chunk

    async def publish(self, path: str, data: bytes, *, immutable: bool) -> None:
        # What is replaced is named, so that a PUT which lands late cannot bring an older checkpoint back.
        replaced = None if immutable else await self._etag(path)
        headers = {"if-match": replaced} if replaced else {"if-none-match": "*"}
        url = self._url(self._log, path)
        payload = hashlib.sha256(data).hexdigest()

        def send(now: datetime) -> Awaitable[Answer]:
            signed = self._signed("PUT", url, headers, self._keep, payload, now)
            return self.calls.ask("PUT", url, signed, data)

        response = await self._heard.asked(send)
        if response.status_code == 412 and await self.published(path) != data:
            raise StoredDiffers(f"{path} was published with other bytes")
        if response.status_code not in (200, 412):
            raise refusal(response.status_code, code_of(response.text), f"PUT of {path}")

    async def _etag(self, path: str) -> str | None:
        response = await self._keep_call("HEAD", self._log, path, absent_is_none=True)
        return None if response.status_code == 404 else response.headers["etag"]

    async def published(self, path: str) -> bytes | None:
        response = await self._keep_call("GET", self._log, path, absent_is_none=True)
        return None if response.status_code == 404 else response.content

    async def call(
        self,
        who: Who | None,
        method: str,
        bucket: Bucket,
        key: str = "",
        query: str = "",
        *,
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        ticket: bool = False,
        change: Callable[[dict[str, str]], dict[str, str]] | None = None,
    ) -> Answer:
        """One request as `who` (None: unsigned), whatever the answer: for attacks on the store.

        As a `ticket` the payload is not signed, only its length and checksum header; `change` is done to the
        headers after they were signed. Raises StoreUnavailable where no answer comes, and StoreFull: what a full
        store refuses shows nothing.
        """
        url = self._url(self._buckets[bucket], key, query)
        sent = headers or {}
        if who is not None:
            identity = {"put": self._put, "keep": self._keep, "probe": self._probe}[who]
            payload = _UNSIGNED if ticket else hashlib.sha256(content).hexdigest()
            sent = self._signed(method, url, sent, identity, payload, self._heard.now())
        response = await self.calls.ask(method, url, change(sent) if change else sent, content)
        if response.status_code == FULL:
            raise refusal(response.status_code, code_of(response.text), method)
        return response

    def as_keep(
        self, method: str, bucket: Bucket, key: str, *, payload: str = _EMPTY, headers: dict[str, str] | None = None
    ) -> GetTicket:
        """Address and signed headers of one request by *keep*; `payload` is the SHA-256 of what it sends."""
        url = self._url(self._buckets[bucket], key)
        return GetTicket(url, self._signed(method, url, headers or {}, self._keep, payload, datetime.now(UTC)))

    def bucket(self, bucket: Bucket) -> str:
        return self._buckets[bucket]

    async def _keep_call(
        self,
        method: str,
        bucket: str,
        key: str,
        query: str = "",
        *,
        headers: dict[str, str] | None = None,
        absent_is_none: bool = False,
    ) -> Answer:
        url = self._url(bucket, key, query)

        def send(now: datetime) -> Awaitable[Answer]:
            signed = self._signed(method, url, headers or {}, self._keep, _EMPTY, now)
            return self.calls.ask(method, url, signed)

        response = await self._heard.asked(send)
        if response.status_code == 404 and absent_is_none:
            return response
        if response.status_code != 200:
            raise StoreUnavailable(f"{method} {bucket}/{key}?{query} answered {response.status_code}")
        return response

    def _url(self, bucket: str, key: str, query: str = "") -> str:
        path = f"/{bucket}/{quote(key, safe='/-._~')}" if key else f"/{bucket}"
        return self._base + path + (f"?{query}" if query else "")

    def _signed(
        self, method: str, url: str, headers: dict[str, str], who: Credentials, payload: str, now: datetime
    ) -> dict[str, str]:
        parts = urlsplit(url)
        whole: dict[str, str | list[str] | tuple[str]] = {
            **headers,
            "host": parts.netloc,
            "x-amz-date": to_amz_date(now),
            "x-amz-content-sha256": payload,
        }
        signed = sign_v4_s3(
            method=method,
            url=parts,
            region=self._region,
            headers=whole,
            credentials=who,
            content_sha256=payload,
            date=now,
        )
        return {name: str(value) for name, value in signed.items() if name != "host"}


def _version(version: str | None) -> str:
    return f"versionId={quote(version, safe='')}" if version else ""


class S3Shredder:
    """*dispose*: deletes versions, and can do nothing else. The bucket's versioning and lock are checked by the
    vault at each of its starts; what is locked or held the store refuses to delete, whoever asks."""

    def __init__(self, settings: Settings, access_key: str, secret_key: SecretStr):
        self._store = S3Store(settings)
        self._credentials = Credentials(access_key, secret_key.get_secret_value())

    async def delete(self, key: str, version: str) -> None:
        await self._store.delete(key, version, self._credentials)

    async def stop(self) -> None:
        await self._store.stop()
