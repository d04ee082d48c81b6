"""A terminal moved by hand, one numbered step at a time, so that a test can stop between any two."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from uuid_utils.compat import uuid7

from deploy.local import bureau
from services.vault.contract import verify, wire
from services.vault.contract.channel import CHANNEL_TERMINAL, RequestSigner, raw_public
from tests.system import System


class HandTerminal:
    """An enrolled key and a connection to the api."""

    def __init__(self, system: System):
        self.key = Ed25519PrivateKey.generate()
        code = bureau.enrolment_code(system.stack, system.people)
        enrolment = {
            "code": code,
            "public_key": base64.b64encode(raw_public(self.key)).decode(),
            "proof": base64.b64encode(self.key.sign(b"quancheng-enrolment-v1\n" + code.encode())).decode(),
            "model": "by hand",
        }
        signer = RequestSigner(self.key, CHANNEL_TERMINAL)
        self.http = httpx.Client(base_url=system.stack.api_url, auth=signer, timeout=30, trust_env=False)
        answer = self.http.post("/v1/enrolments", json=enrolment)
        answer.raise_for_status()
        self._system, self.recorder = system, answer.json()["recorder"]
        self.vault = wire.VaultIdentity.model_validate(answer.json()["vault"])
        self.trusted = {self.vault.receipt_key_id: verify.load_public_key(pem_of(self.vault.receipt_key))}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.http.close()

    def revoke(self) -> None:
        """By an administrator, since it was lost."""
        message = {"key_id": verify.key_id(raw_public(self.key)), "code": "lost", "reason": "遗失"}
        with self._system.sign_in("admin") as admin:
            admin.post(f"/v1/recorders/{self.recorder}/revocation", json=message).raise_for_status()

    def begin(self) -> HandRecording:
        """A recording under an id of our own, opened at the api."""
        recording = HandRecording(self, uuid7())
        opened = self.http.put(f"/v1/recordings/{recording.id}", json={"started_at": recording.started_at})
        opened.raise_for_status()
        return recording


class HandRecording:
    def __init__(self, terminal: HandTerminal, identity: UUID):
        self.id, self._terminal = identity, terminal
        self.started_at = wire.rfc3339(datetime.now(UTC))

    def segment(self, sequence: int, data: bytes) -> wire.SegmentAsk:
        return wire.SegmentAsk(
            sequence=sequence,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            media="media" if sequence else "init",
            started_at=datetime.now(UTC),
            duration_ms=1000 if sequence else 0,
            monotonic_ms=sequence * 1000,
        )

    def exchange(self, asks: Sequence[wire.SegmentAsk] = (), commits: Sequence[wire.SegmentAsk] = ()) -> Any:
        """The raw answer to one exchange."""
        body = {
            "asks": [ask.model_dump(mode="json") for ask in asks],
            "commits": [{"sequence": ask.sequence, "sha256": ask.sha256} for ask in commits],
        }
        return self._terminal.http.post(f"/v1/recordings/{self.id}/exchange", json=body)

    def ask(self, ask: wire.SegmentAsk) -> wire.ExchangeResult:
        """Steps 1 and 2."""
        return self._result(self.exchange(asks=[ask]))

    def commit(self, ask: wire.SegmentAsk) -> wire.ExchangeResult:
        """Steps 4 and 5."""
        return self._result(self.exchange(commits=[ask]))

    def seal(self, sequence: int, data: bytes) -> wire.SegmentAsk:
        """All six steps."""
        ask = self.segment(sequence, data)
        self.seal_as(ask, data)
        return ask

    def seal_as(self, ask: wire.SegmentAsk, data: bytes) -> None:
        assert put(self.ask(ask).tickets[0], data) == 200
        self.receipt(self.commit(ask), ask)

    def receipt(self, result: wire.ExchangeResult, ask: wire.SegmentAsk) -> dict[str, Any]:
        """The one receipt of a result, verified against the pinned key."""
        assert len(result.sealed) == 1, result
        envelope = result.sealed[0].receipt.model_dump()
        verify.verify_receipt(
            envelope,
            self._terminal.trusted,
            recording=str(self.id),
            sequence=ask.sequence,
            sha256=ask.sha256,
            size=ask.size,
        )
        return envelope

    def closing(
        self,
        segments: Iterable[wire.SegmentAsk],
        *,
        by: Ed25519PrivateKey | None = None,
        missing: Sequence[int] = (),
        number: int = 0,
    ) -> dict[str, Any]:
        """A signed closing over these segments, as its JSON; of a supplement where it has a number."""
        listed = sorted(segments, key=lambda ask: ask.sequence)
        leaves = (verify.segment_leaf(ask.sequence, ask.sha256, ask.size) for ask in listed)
        payload = {
            "recording": str(self.id),
            "count": len(listed),
            "root": verify.merkle_root(leaves).hex(),
            "missing": list(missing),
            "started_at": self.started_at,
            "ended_at": wire.rfc3339(datetime.now(UTC)),
            "interrupted": False,
        }
        if number:
            payload |= {"number": number, "sequences": [ask.sequence for ask in listed]}
        data, key = wire.canonical(payload), by or self._terminal.key
        signature = key.sign(verify.pae(wire.CLOSING_TYPE, data))
        return {
            "payloadType": wire.CLOSING_TYPE,
            "payload": base64.b64encode(data).decode(),
            "signatures": [
                {"keyid": verify.key_id(raw_public(key)), "sig": base64.b64encode(signature).decode()},
            ],
        }

    def close(self, closing: dict[str, Any]) -> httpx.Response:
        return self._terminal.http.post(f"/v1/recordings/{self.id}/close", json={"closing": closing}, timeout=60)

    def manifest(self, number: int) -> httpx.Response:
        return self._terminal.http.get(f"/v1/recordings/{self.id}/manifests/{number}")

    @staticmethod
    def _result(answer: httpx.Response) -> wire.ExchangeResult:
        answer.raise_for_status()
        return wire.ExchangeResult.model_validate_json(answer.content)


def put(ticket: wire.Ticket, data: bytes) -> int:
    """Step 3; the store's status."""
    return httpx.put(ticket.url, headers=ticket.headers, content=data, timeout=30, trust_env=False).status_code


def some_bytes(size: int = 4096) -> bytes:
    return os.urandom(size)


def pem_of(raw_base64: str) -> bytes:
    """A raw Ed25519 key as PEM (SubjectPublicKeyInfo, RFC 8410)."""
    prefix = bytes.fromhex("302a300506032b6570032100")
    body = base64.b64encode(prefix + base64.b64decode(raw_base64)).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n".encode()


def pinned_by(home_json: bytes) -> wire.VaultIdentity:
    """The vault that a reference terminal pinned, from its terminal.json."""
    return wire.VaultIdentity.model_validate(json.loads(home_json)["vault"])
