"""Any S3 with Object Lock (MinIO by default). The only file that imports `minio`.

The running vault knows two identities and no more: *put* signs tickets and can only put and lock; *keep*
reads and heads evidence and writes the plain log bucket. `set_up` alone uses the store's administrator and
is run by a command of its own, never by the service.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote_plus, urlencode, urlsplit
from xml.etree import ElementTree

import httpx
from minio import Minio, MinioAdmin
from minio.credentials.credentials import Credentials
from minio.credentials.providers import StaticProvider
from minio.signer import sign_v4_s3
from minio.time import to_amz_date

from services.vault.contract.wire import TICKET_SECONDS, Lock
from services.vault.errors import StoredDiffers, StoreUnavailable, StoreUnfit
from services.vault.settings import Settings
from services.vault.stores.port import GetTicket, PutTicket, StoredName, StoredObject

_UNSIGNED = "UNSIGNED-PAYLOAD"
_EMPTY = hashlib.sha256(b"").hexdigest()
_CHUNK = 256 * 1024
_NO_EXTRACT = {"x-amz-meta-snowball-auto-extract": "false"}
"""MinIO unpacks a tar that is put with this header set to true, into any keys of the bucket, and the header
need not be signed to be obeyed. Signed as false it cannot be set."""
_PAGE = 1000
_XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"
MAX_DRIFT = timedelta(seconds=5)


def _store_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class S3Store:
    lock: Lock = "compliance"

    def __init__(self, settings: Settings):
        assert settings.s3_put_secret_key and settings.s3_keep_secret_key  # settings checked it
        assert settings.s3_put_access_key and settings.s3_keep_access_key
        self._base = f"{'https' if settings.s3_secure else 'http'}://{settings.s3_endpoint}"
        self._region = settings.s3_region
        self._evidence, self._log = settings.s3_evidence_bucket, settings.s3_log_bucket
        self._put = Credentials(settings.s3_put_access_key, settings.s3_put_secret_key.get_secret_value())
        self._keep = Credentials(settings.s3_keep_access_key, settings.s3_keep_secret_key.get_secret_value())
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(20.0, connect=3.0),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
            trust_env=False,
        )

    async def start(self) -> None:
        """Versioning and Object Lock are on, and vault and store agree on the time within `MAX_DRIFT`."""
        asked = datetime.now(UTC)
        versioning = await self._keep_call("GET", self._evidence, "", "versioning=", absent_is_none=True)
        answered = datetime.now(UTC)
        if versioning.status_code == 404:
            raise StoreUnfit(f"存储桶 {self._evidence} 不存在，拒绝启动。")
        if b"<Status>Enabled</Status>" not in versioning.content:
            raise StoreUnfit(f"存储桶 {self._evidence} 未启用版本控制，拒绝启动。")
        # Where no bucket ever had a lock configuration the store answers 404.
        locking = await self._keep_call("GET", self._evidence, "", "object-lock=", absent_is_none=True)
        if b"<ObjectLockEnabled>Enabled</ObjectLockEnabled>" not in locking.content:
            raise StoreUnfit(f"存储桶 {self._evidence} 未启用对象锁定（Object Lock），拒绝启动。")
        store_clock = datetime.strptime(versioning.headers["date"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        # The header is cut to whole seconds, so the true time lies within the second after it.
        if store_clock > answered + MAX_DRIFT or store_clock + timedelta(seconds=1) < asked - MAX_DRIFT:
            raise StoreUnfit("证据库与对象存储的时钟相差超过 5 秒，拒绝启动。")

    async def stop(self) -> None:
        await self._http.aclose()

    def put_ticket(self, key: str, sha256: str, size: int, retain_until: datetime, now: datetime) -> PutTicket:
        headers = {
            "content-length": str(size),
            "if-none-match": "*",
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
            "x-amz-object-lock-mode": "COMPLIANCE",
            "x-amz-object-lock-retain-until-date": _store_time(retain_until),
            **_NO_EXTRACT,
        }
        url = self._url(self._evidence, key)
        signed = self._signed("PUT", url, headers, self._put, _UNSIGNED, now)
        return PutTicket(url, signed, now + timedelta(seconds=TICKET_SECONDS))

    def get_ticket(self, key: str, version: str, now: datetime) -> GetTicket:
        url = self._url(self._evidence, key, f"versionId={quote(version, safe='')}")
        return GetTicket(url, self._signed("GET", url, {}, self._keep, _EMPTY, now))

    async def head(self, key: str) -> StoredObject | None:
        response = await self._keep_call(
            "HEAD", self._evidence, key, headers={"x-amz-checksum-mode": "ENABLED"}, absent_is_none=True
        )
        if response.status_code == 404:
            return None
        found = response.headers
        until = found.get("x-amz-object-lock-retain-until-date")
        checksum = found.get("x-amz-checksum-sha256", "")
        mode = found.get("x-amz-object-lock-mode")
        return StoredObject(
            key=key,
            version=found.get("x-amz-version-id", ""),
            size=int(found.get("content-length", "-1")),
            sha256=base64.b64decode(checksum).hex(),
            lock="compliance" if mode == "COMPLIANCE" else "none",
            retain_until=datetime.fromisoformat(until) if until else None,
        )

    async def put(self, key: str, data: bytes, retain_until: datetime) -> StoredObject:
        sha256 = hashlib.sha256(data).hexdigest()
        ticket = self.put_ticket(key, sha256, len(data), retain_until, datetime.now(UTC))
        try:
            response = await self._http.put(ticket.url, content=data, headers=ticket.headers)
        except httpx.HTTPError as error:
            raise StoreUnavailable(str(error)) from error
        if response.status_code not in (200, 412):
            raise StoreUnavailable(f"PUT answered {response.status_code}")
        found = await self.head(key)
        if found is None or found.sha256 != sha256 or found.lock != self.lock:
            raise StoredDiffers(f"{key} is not what was put")
        return found

    async def list(self, prefix: str) -> AsyncIterator[StoredName]:
        asked = {"encoding-type": "url", "max-keys": str(_PAGE), "prefix": prefix, "versions": ""}
        after: dict[str, str] = {}
        while True:
            query = urlencode(sorted({**asked, **after}.items()), quote_via=quote, safe="-_.~")
            page = await self._keep_call("GET", self._evidence, "", query)
            # The store's own answer, at most a thousand names long.
            root = ElementTree.fromstring(page.content)  # noqa: S314
            for each in root:
                if each.tag in (f"{_XML}Version", f"{_XML}DeleteMarker"):
                    key, version = (each.findtext(f"{_XML}{name}", "") for name in ("Key", "VersionId"))
                    size = int(each.findtext(f"{_XML}Size", "0"))
                    yield StoredName(unquote_plus(key), version, size, each.tag == f"{_XML}DeleteMarker")
            if root.findtext(f"{_XML}IsTruncated") != "true":
                return
            key, version = (root.findtext(f"{_XML}Next{name}Marker", "") for name in ("Key", "VersionId"))
            after = {"key-marker": unquote_plus(key), "version-id-marker": version}

    async def read(self, key: str, version: str) -> AsyncIterator[bytes]:
        ticket = self.get_ticket(key, version, datetime.now(UTC))
        try:
            async with self._http.stream("GET", ticket.url, headers=ticket.headers) as response:
                if response.status_code != 200:
                    raise StoreUnavailable(f"GET answered {response.status_code}")
                async for chunk in response.aiter_raw(_CHUNK):
                    yield chunk
        except httpx.HTTPError as error:
            raise StoreUnavailable(str(error)) from error

    async def publish(self, path: str, data: bytes, *, immutable: bool) -> None:
        # What is replaced is named, so that a PUT which lands late cannot bring an older checkpoint back.
        replaced = None if immutable else await self._etag(path)
        headers = {"if-match": replaced} if replaced else {"if-none-match": "*"}
        url = self._url(self._log, path)
        signed = self._signed("PUT", url, headers, self._keep, hashlib.sha256(data).hexdigest(), datetime.now(UTC))
        try:
            response = await self._http.put(url, content=data, headers=signed)
        except httpx.HTTPError as error:
            raise StoreUnavailable(str(error)) from error
        if response.status_code == 412 and await self.published(path) != data:
            raise StoredDiffers(f"{path} was published with other bytes")
        if response.status_code not in (200, 412):
            raise StoreUnavailable(f"PUT of {path} answered {response.status_code}")

    async def _etag(self, path: str) -> str | None:
        response = await self._keep_call("HEAD", self._log, path, absent_is_none=True)
        return None if response.status_code == 404 else response.headers["etag"]

    async def published(self, path: str) -> bytes | None:
        response = await self._keep_call("GET", self._log, path, absent_is_none=True)
        return None if response.status_code == 404 else response.content

    async def _keep_call(
        self,
        method: str,
        bucket: str,
        key: str,
        query: str = "",
        *,
        headers: dict[str, str] | None = None,
        absent_is_none: bool = False,
    ) -> httpx.Response:
        url = self._url(bucket, key, query)
        signed = self._signed(method, url, headers or {}, self._keep, _EMPTY, datetime.now(UTC))
        try:
            response = await self._http.request(method, url, headers=signed)
        except httpx.HTTPError as error:
            raise StoreUnavailable(str(error)) from error
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


def set_up(settings: Settings, admin_access_key: str, admin_secret_key: str, policies: Path) -> None:
    """Make the buckets and the identities *put* and *keep*, each with its policy file. Repeatable.

    Speaks MinIO's admin API; on another store the buckets, users and policies are made by its own means and
    this is not run.
    """
    assert settings.s3_endpoint and settings.s3_put_access_key and settings.s3_keep_access_key
    assert settings.s3_put_secret_key and settings.s3_keep_secret_key
    client = Minio(
        endpoint=settings.s3_endpoint,
        access_key=admin_access_key,
        secret_key=admin_secret_key,
        secure=settings.s3_secure,
        region=settings.s3_region,
    )
    for bucket, locked in ((settings.s3_evidence_bucket, True), (settings.s3_log_bucket, False)):
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket, object_lock=locked)
    admin = MinioAdmin(
        endpoint=settings.s3_endpoint,
        credentials=StaticProvider(admin_access_key, admin_secret_key),
        secure=settings.s3_secure,
    )
    for name, access_key, secret_key in (
        ("put", settings.s3_put_access_key, settings.s3_put_secret_key),
        ("keep", settings.s3_keep_access_key, settings.s3_keep_secret_key),
    ):
        text = (policies / f"{name}.json").read_text("utf-8")
        text = text.replace("quancheng-evidence", settings.s3_evidence_bucket)
        text = text.replace("quancheng-log", settings.s3_log_bucket)
        policy = f"{settings.s3_evidence_bucket}-{name}"
        admin.policy_add(policy, policy=json.loads(text))
        admin.user_add(access_key, secret_key.get_secret_value())
        admin.policy_set(policy, user=access_key)
