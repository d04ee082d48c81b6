"""The tickets of the local folders: signed with a secret of the vault's, and checked at the door they are for."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from services.vault.contract.http import Scope
from services.vault.contract.wire import TICKET_SECONDS

MOUNT, STAGING_MOUNT = "/store", "/staging"
_SCHEME = "QC-HMAC-SHA256"
_KEY = re.compile(r"^(?:[a-z0-9][a-z0-9._-]*/)*[a-z0-9][a-z0-9._-]*$")


class Refused(Exception):
    def __init__(self, status: int, slug: str, title: str):
        super().__init__(slug)
        self.status, self.slug, self.title = status, slug, title


class Tickets:
    def __init__(self, public_url: str, secret: bytes, mount: str = MOUNT):
        self._public, self._mount = public_url.rstrip("/"), mount
        self._host = urlsplit(self._public).netloc
        self._secret = secret
        self._earlier: tuple[bytes, datetime] | None = None

    def turn(self, secret: bytes, *, honour: bool) -> None:
        """Sign tickets with another secret from here on. `honour`: those out already live on to their end."""
        if secret == self._secret:
            return
        lives = datetime.now(UTC) + timedelta(seconds=TICKET_SECONDS)
        self._earlier = (self._secret, lives) if honour else None
        self._secret = secret

    def _secrets(self) -> list[bytes]:
        earlier = self._earlier if self._earlier and self._earlier[1] > datetime.now(UTC) else None
        return [self._secret, *([earlier[0]] if earlier else [])]

    def signed(
        self, method: str, path: str, headers: dict[str, str], expires: datetime
    ) -> tuple[str, dict[str, str]]:
        until = int(expires.timestamp())
        covered = {**headers, "host": self._host}
        signature = self._signature(method, path, covered, until)
        authorization = f"{_SCHEME} Expires={until},SignedHeaders={';'.join(sorted(covered))},Signature={signature}"
        return self._public + path, {**headers, "authorization": authorization}

    def authorize(self, scope: Scope) -> str:
        """The key this request may use. Any `x-` header that was not signed is refused, as S3 does."""
        pairs = [(name.decode().lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = dict(pairs)
        method, path = scope["method"], scope["raw_path"].decode() if scope.get("raw_path") else scope["path"]
        match = re.fullmatch(
            rf"{_SCHEME} Expires=(\d{{1,12}}),SignedHeaders=([a-z0-9;-]+),Signature=([0-9a-f]{{64}})",
            headers.get("authorization", ""),
        )
        unsigned = bool(scope.get("query_string")) or len(headers) != len(pairs)
        if method not in ("PUT", "GET") or match is None or unsigned:
            raise Refused(403, "ticket-invalid", "上传凭单无效。")
        expires, names, signature = int(match[1]), match[2].split(";"), match[3]
        if any(name not in names for name in headers if name.startswith(("x-amz-", "x-quancheng-"))):
            raise Refused(403, "header-not-signed", "请求带有凭单未签名的标头。")
        covered = {name: headers.get(name, "") for name in names}
        good = (self._signature(method, path, covered, expires, secret) for secret in self._secrets())
        if not any(hmac.compare_digest(signature, one) for one in good):
            raise Refused(403, "ticket-invalid", "上传凭单无效，或与请求的标头不符。")
        if expires < datetime.now(UTC).timestamp():
            raise Refused(403, "ticket-expired", "上传凭单已过期，请重新申请。")
        key = path.removeprefix(self._mount + "/")
        if not _KEY.fullmatch(key):
            raise Refused(403, "ticket-invalid", "上传凭单无效。")
        return str(key)

    def _signature(
        self, method: str, path: str, headers: dict[str, str], expires: int, secret: bytes | None = None
    ) -> str:
        lines = [method, path, str(expires), *(f"{name}:{headers[name]}" for name in sorted(headers))]
        return hmac.new(secret or self._secret, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
