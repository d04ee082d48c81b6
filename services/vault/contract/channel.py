"""Signed requests (RFC 9421, Ed25519): how a terminal speaks to the api, and the api to the vault.

    sign(request, key, CHANNEL_TERMINAL)
    key_id = verify(method, url, headers, body, resolve, CHANNEL_TERMINAL)

Method, authority, path, query and, where there is a body, its SHA-256 are covered. A signature lives
`MAX_AGE`; every verb behind it is idempotent by an id in the signed part, so a replay within that time
repeats an answer and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, HTTPSignatureKeyResolver
from http_message_signatures import algorithms as _algorithms
from http_message_signatures.exceptions import HTTPMessageSignaturesException

from services.vault.contract.verify import key_id as _key_id

CHANNEL_TERMINAL = "quancheng-terminal"
CHANNEL_SERVICE = "quancheng-service"
MAX_AGE = timedelta(minutes=5)
MAX_SKEW = timedelta(seconds=60)
"""How far ahead a signer's clock may be; a terminal or an api further off follows the server's `Date` header
for its signatures alone (`RequestSigner.offset`), never for the times it reports."""

_CLOCK_TOLERANCE = timedelta(seconds=5)
_COVERED = ("@method", "@authority", "@path", "@query")


class ChannelError(Exception):
    """The request is not signed, or not by a known key, or not for this channel, or too old."""


class _Verifier(HTTPMessageVerifier):
    max_clock_skew = MAX_SKEW


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, private: Ed25519PrivateKey | None, public: Callable[[str], Ed25519PublicKey | None] | None):
        self._private, self._public = private, public

    def resolve_private_key(self, key_id: str) -> Any:
        return self._private

    def resolve_public_key(self, key_id: str) -> Any:
        return self._public(key_id) if self._public else None


def raw_public(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The 32 raw bytes of a public key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


class RequestSigner(httpx.Auth):
    """Signs every request of an httpx client with one key."""

    requires_request_body = True

    def __init__(self, key: Ed25519PrivateKey, tag: str):
        self.key_id = _key_id(raw_public(key))
        self.offset = timedelta()
        self._tag = tag
        self._signer = HTTPMessageSigner(signature_algorithm=_algorithms.ED25519, key_resolver=_Keys(key, None))

    def follow(self, server_time: str | None) -> bool:
        """Sign by the server's clock (its `Date` header) from now on; False where that changes little."""
        try:
            ahead = parsedate_to_datetime(server_time or "") - datetime.now(UTC)
        except (TypeError, ValueError):
            return False
        if abs(ahead - self.offset) <= _CLOCK_TOLERANCE:
            return False
        self.offset = ahead
        return True

    def auth_flow(self, request: httpx.Request) -> Any:
        self.sign(request)
        yield request

    def sign(self, request: httpx.Request) -> None:
        body = request.content
        self._signer.sign(
            request,
            key_id=self.key_id,
            tag=self._tag,
            label="qc",
            created=datetime.now(UTC) + self.offset,
            covered_component_ids=_COVERED,
            body=body or None,
        )


def claimed_key(headers: Mapping[str, str]) -> str | None:
    """The key id a request says it was signed by: enough to look the key up, and nothing is shown by it."""
    match = re.search(r';keyid="([0-9a-f]{64})"', headers.get("signature-input", ""))
    return match[1] if match else None


def verify(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    resolve: Callable[[str], Ed25519PublicKey | None],
    tag: str,
) -> str:
    """The key id that signed this request. Raises ChannelError, and says no more than that it failed."""
    verifier = _Verifier(signature_algorithm=_algorithms.ED25519, key_resolver=_Keys(None, resolve))
    message = SimpleNamespace(method=method, url=url, headers=headers)
    try:
        results = verifier.verify(message, max_age=MAX_AGE, expect_tag=tag, require_components=_COVERED, body=body)
    except HTTPMessageSignaturesException as error:
        raise ChannelError(str(error)) from error
    if len(results) != 1:
        raise ChannelError("exactly one signature is expected")
    return str(results[0].parameters["keyid"])
