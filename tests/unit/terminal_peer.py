"""The terminal's peer: api, vault and store on one real socket, with real signatures and staged faults."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.terminal.closing import root_of
from services.vault.contract import verify, wire
from services.vault.contract.channel import CHANNEL_TERMINAL, raw_public
from services.vault.contract.channel import verify as verify_request

PROOF_CONTEXT = b"quancheng-enrolment-v1\n"
Answer = tuple[int, dict[str, str], bytes]


class Dropped(Exception):
    """The connection is cut here."""


class Peer:
    """An api, a vault and a store behind one port: it really checks, keeps and signs.

    `faults` are taken one a request whose path matches: (pattern, what). `what` is `drop` (before anything
    happens), `drop-after` (done, but the answer is lost), a status, or a function from answer to answer.
    """

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.terminals: dict[str, Ed25519PublicKey] = {}
        self.codes: dict[str, dict[str, Any]] = {}
        self.faults: deque[tuple[str, Any]] = deque()
        self.clock_ahead = timedelta()
        self.ticket_life = timedelta(minutes=14)
        self.objects: dict[str, bytes] = {}
        self.asked: dict[tuple[str, int], dict[str, Any]] = {}
        self.opened: dict[str, str] = {}
        self.sealed: dict[tuple[str, int], dict[str, Any]] = {}
        self.closings: dict[str, list[dict[str, Any]]] = {}
        self.manifests: dict[str, list[dict[str, Any]]] = {}
        """By recording, the answers to its closings: the first one's, then the supplements'."""
        self.told_keys: list[dict[str, Any]] = []
        """What it tells of the vault's keys."""
        self.heartbeats: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.url = ""

    @property
    def identity(self) -> dict[str, str]:
        raw = raw_public(self.key)
        key = base64.b64encode(raw).decode()
        return {
            "origin": "quancheng.local/0",
            "receipt_key": key,
            "receipt_key_id": verify.key_id(raw),
            "log_vkey": "x",
            "lock": "none",
        }

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[Peer]:
        server = await asyncio.start_server(self._talk, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = first.split(" ")
                status, extra, content = await self._answer(method, path, headers, body)
                extra |= {"content-length": str(len(content)), "date": self._date()}
                lines = [f"{k}: {v}" for k, v in extra.items()]
                writer.write("\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode() + content)
                await writer.drain()
        except (Dropped, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    def _date(self) -> str:
        return format_datetime(datetime.now(UTC) + self.clock_ahead, usegmt=True)

    async def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        self.requests.append(f"{method} {path}")
        fault: Any = None
        if self.faults and re.search(self.faults[0][0], path):
            fault = self.faults.popleft()[1]
        if fault == "drop":
            raise Dropped
        if isinstance(fault, int):
            return problem(fault, "unavailable")
        if path.startswith("/store/"):
            answer = self._store(path, headers, body)
        elif path == "/v1/keys":
            answer = reply(200, origin="quancheng.local/0", keys=self.told_keys)
        elif path == "/v1/enrolments":
            answer = self._enrol(json.loads(body))
        else:
            answer = self._signed(method, path, headers, body)
        if fault == "drop-after":
            raise Dropped
        return fault(answer) if callable(fault) else answer

    def _enrol(self, message: dict[str, str]) -> Answer:
        raw = base64.b64decode(message["public_key"])
        if self.codes.setdefault(message["code"], message)["public_key"] != message["public_key"]:
            return problem(403, "code-used")
        key = Ed25519PublicKey.from_public_bytes(raw)
        key.verify(base64.b64decode(message["proof"]), PROOF_CONTEXT + message["code"].encode())
        self.terminals[verify.key_id(raw)] = key
        recorder = "0198c0de-0000-7000-8000-000000000001"
        return reply(201, recorder=recorder, name="一号", key_id=verify.key_id(raw), vault=self.identity)

    def _signed(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if self.clock_ahead:
            created = re.search(r"created=(\d+)", headers["signature-input"])
            assert created is not None
            ahead = datetime.now(UTC) + self.clock_ahead - datetime.fromtimestamp(int(created[1]), UTC)
            if abs(ahead) > timedelta(seconds=60):
                return problem(401, "not-signed-in")
        else:
            verify_request(method, self.url + path, headers, body, self.terminals.get, CHANNEL_TERMINAL)
        if path == "/v1/recorders/self/heartbeat":
            self.heartbeats.append(json.loads(body))
            return 204, {}, b""
        _, _, _, recording, *verb = path.split("/")
        if verb and verb[0] == "manifests":
            kept = self.manifests.get(recording, [])
            return reply(200, **kept[int(verb[1])]) if int(verb[1]) < len(kept) else problem(404, "no-such-manifest")
        message = json.loads(body)
        if not verb:
            self.opened[recording] = message["started_at"]
            return reply(201)
        if recording not in self.opened:
            return problem(404, "no-such-recording")
        if verb == ["exchange"]:
            return self._exchange(recording, wire.ExchangeRequest.model_validate(message))
        return self._close(recording, wire.CloseRecording.model_validate(message).closing)

    def _exchange(self, recording: str, request: wire.ExchangeRequest) -> Answer:
        tickets, sealed, problems = [], [], []
        for ask in request.asks:
            at = recording, ask.sequence
            self.asked[at] = ask.model_dump(mode="json")
            if at in self.sealed:
                sealed.append(self.sealed[at])
                continue
            name = {"sequence": ask.sequence, "sha256": ask.sha256}
            expires = datetime.now(UTC) + self.clock_ahead + self.ticket_life
            url = f"{self.url}/store/{recording}/{ask.sequence}-{ask.sha256}"
            sent = {"x-amz-checksum-sha256": ask.sha256, "content-length": str(ask.size)}
            tickets.append({**name, "url": url, "headers": sent, "expires_at": wire.rfc3339(expires)})
        for commit in request.commits:
            at = recording, commit.sequence
            if f"{recording}/{commit.sequence}-{commit.sha256}" in self.objects:
                sealed.append(self.sealed.setdefault(at, self._seal(recording, self.asked[at])))
            else:
                problems.append({**commit.model_dump(), "slug": "not-stored", "title": "存储中没有"})
        return reply(200, tickets=tickets, sealed=sealed, problems=problems, segment_seconds=1)

    def _seal(self, recording: str, ask: dict[str, Any]) -> dict[str, Any]:
        now = wire.rfc3339(datetime.now(UTC))
        payload = {**ask, "recording": recording, "asked_at": now, "sealed_at": now}
        payload["store"] = {"key": "k", "version": "v", "lock": "none", "retain_until": None}
        told = {k: v for k, v in ask.items() if k in wire.SealedSegment.model_fields}
        receipt = sign(self.key, wire.RECEIPT_TYPE, payload)
        return {**told, "received_at": now, "sealed_at": now, "lock": "none", "receipt": receipt}

    def _store(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        key = path.removeprefix("/store/")
        if headers["x-amz-checksum-sha256"] != hashlib.sha256(body).hexdigest() or "content-type" in headers:
            return 403, {}, b""
        if key in self.objects:
            return 412, {}, b""
        self.objects[key] = body
        return 200, {}, b""

    def close_by_server(self, recording: str) -> None:
        """In the terminal's absence, over what is sealed and in no manifest yet."""
        self._settle(recording, {"closed_by": "server", "reason": "lost"}, self._unlisted(recording))

    def _close(self, recording: str, closing: wire.Envelope) -> Answer:
        told = verify.verify_envelope(closing.model_dump(), self.terminals, wire.CLOSING_TYPE)
        self.closings.setdefault(recording, []).append(closing.model_dump())
        kept = self.manifests.setdefault(recording, [])
        number = told.get("number", 0)
        if number < len(kept):
            by_server = kept[number]["closed_by"] == "server"
            return problem(409, "closed-by-server") if by_server else reply(200, **kept[number])
        segments = self._unlisted(recording)
        if root_of((s["sequence"], s["sha256"], s["size"]) for s in segments) != told["root"]:
            return problem(409, "segments-outstanding", outstanding=[])
        return reply(200, **self._settle(recording, {**told, "closing": closing.model_dump()}, segments))

    def _unlisted(self, recording: str) -> list[dict[str, Any]]:
        kept = [wire.Envelope.model_validate(one["manifest"]).decoded() for one in self.manifests.get(recording, [])]
        listed = [each["sequence"] for manifest in kept for each in manifest["segments"]]
        own = sorted((n, sealed) for (owner, n), sealed in self.sealed.items() if owner == recording)
        return [sealed for n, sealed in own if n not in listed]

    def _settle(self, recording: str, told: dict[str, Any], segments: list[dict[str, Any]]) -> dict[str, Any]:
        kept = self.manifests.setdefault(recording, [])
        manifest = {"recording": recording, **told, "segments": segments, "beside": [], "number": len(kept)}
        now = wire.rfc3339(datetime.now(UTC))
        answer = {
            "recording": recording,
            "number": len(kept),
            "closed_by": "terminal" if "closing" in told else "server",
            "segments": len(segments),
            "bytes": sum(s["size"] for s in segments),
            "ended_at": told.get("ended_at", now),
            "closed_at": now,
            "lock": "none",
            "manifest": sign(self.key, wire.MANIFEST_TYPE, manifest),
            "manifest_sha256": "0" * 64,
            "log_act": recording,
        }
        kept.append(answer)
        return answer


def sign(key: Ed25519PrivateKey, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    data = wire.canonical(payload)
    signature = base64.b64encode(key.sign(verify.pae(kind, data))).decode()
    signatures = [{"keyid": verify.key_id(raw_public(key)), "sig": signature}]
    return {"payloadType": kind, "payload": base64.b64encode(data).decode(), "signatures": signatures}


def reply(status: int, /, **body: Any) -> Answer:
    return status, {"content-type": "application/json"}, json.dumps(body).encode()


def problem(status: int, slug: str, **extra: Any) -> Answer:
    return reply(status, type=f"urn:x:{slug}", title="不行", status=status, slug=slug, **extra)
