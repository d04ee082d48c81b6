"""The terminal's half of the sealing cycle against a real peer on a real socket, with faults staged in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.terminal.api import Api, Backoff, refusal
from services.terminal.enrol import EnrolmentFailed, enrol
from services.terminal.home import AlreadyEnrolled, Home
from services.terminal.pins import Pinned
from services.terminal.progress import Progress
from services.terminal.spool import RecordingSpool, Spool
from services.terminal.uplink import Drain, Uplink
from services.vault.contract import verify, wire
from services.vault.contract.channel import raw_public
from tests.unit.terminal_peer import Answer, Peer, problem, reply, sign

NOW = datetime(2026, 11, 23, 17, 34, 40, tzinfo=UTC)


class Events(Progress):
    """What would be printed, kept."""

    def __init__(self) -> None:
        super().__init__("json")
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._heard = asyncio.Event()

    def tell(self, event: str, **fields: Any) -> None:
        self.seen.append((event, fields))
        self._heard.set()

    async def sealed(self, count: int) -> None:
        while len(self.named("sealed")) < count:
            self._heard.clear()
            await self._heard.wait()

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.seen if name == event]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "CAP", 0.3)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer().serve() as serving:
        yield serving


class Terminal:
    """A terminal enrolled with the peer, with something in its spool."""

    def __init__(self, peer: Peer, path: Path, *, segments: int = 5):
        self.peer, self.path, self.events = peer, path, Events()
        self.drain: Drain = "oldest"
        self.key = Ed25519PrivateKey.generate()
        peer.terminals[verify.key_id(raw_public(self.key))] = self.key.public_key()
        self.recording = Spool(path, limit_bytes=10**9).begin(NOW)
        for _ in range(segments):
            self.append()

    def append(self) -> None:
        n = self.recording.next_sequence
        media: wire.Media = "media" if n else "init"
        data, at = bytes([n % 256]) * (1000 + n), NOW + timedelta(seconds=n)
        self.recording.append(data, media=media, started_at=at, duration_ms=1000, monotonic_ms=n)

    def uplink(self, api: Api, lock: wire.Lock = "none") -> Uplink:
        pinned = Pinned({verify.key_id(raw_public(self.peer.key)): self.peer.key.public_key()}, lock)
        return Uplink(self.recording, api, self.key, pinned, self.events, drain=self.drain)

    async def run(self, during: Callable[[Uplink], Awaitable[None]] | None = None) -> None:
        async with asyncio.timeout(20), Api(self.peer.url, self.key) as api:
            uplink = self.uplink(api)
            running = asyncio.create_task(uplink.run())
            try:
                if during:
                    await during(uplink)
                uplink.end(interrupted=False)
                await running
            finally:
                running.cancel()

    def again(self) -> RecordingSpool:
        """The recording as a new process finds it."""
        (self.recording,) = Spool(self.path, limit_bytes=10**9).leftovers()
        return self.recording

    def assert_closed(self, segments: int) -> None:
        recording = str(self.recording.id)
        stored = [self.peer.objects[k] for k in self.peer.objects if k.startswith(recording)]
        assert sorted(stored) == [bytes([n % 256]) * (1000 + n) for n in range(segments)]
        assert not (self.path / "spool" / recording).exists()
        done = self.path / "done" / recording
        assert len(list(done.glob("*.receipt.json"))) == segments
        assert not list(done.glob("*.seg"))
        assert self.peer.manifests[recording]


async def test_everything_recorded_is_receipted_and_closed(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=40)
    await terminal.run()
    terminal.assert_closed(40)
    assert len(terminal.events.named("sealed")) == 40
    # A backlog shares its calls: 40 segments, two small calls each, would be 80.
    assert sum("exchange" in request for request in peer.requests) < 40


async def test_segments_go_as_they_come(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=1)

    async def live(uplink: Uplink) -> None:
        for _ in range(4):
            terminal.append()
            uplink.wake()
            await terminal.events.sealed(terminal.recording.next_sequence)

    await terminal.run(live)
    terminal.assert_closed(5)


FAULTS = [
    ("/v1/", "drop"),
    ("exchange", "drop"),
    ("exchange", "drop-after"),
    ("exchange", 503),
    ("store", "drop"),
    ("store", "drop-after"),
    ("store", 503),
    ("store", 403),
    ("exchange", lambda answer: (200, {}, b"not json")),
    ("exchange", lambda answer: reply(200)),
    ("exchange", lambda answer: problem(404, "no-such-recording")),
    ("close", lambda answer: problem(409, "conflicts-undecided")),
    ("exchange", lambda answer: (502, {}, b"<html>")),
    ("close", "drop"),
    ("close", "drop-after"),
    ("close", 503),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{where} {what}"[:24] for where, what in FAULTS])
async def test_any_fault_leads_back_to_asking(peer: Peer, tmp_path: Path, fault: tuple[str, Any]) -> None:
    peer.faults.extend([fault] * 3)
    terminal = Terminal(peer, tmp_path)
    await terminal.run()
    assert not peer.faults
    terminal.assert_closed(5)
    assert terminal.events.named("retry") or fault[0] == "exchange"


async def test_a_segment_that_the_store_does_not_tell_of_is_asked_for_again(peer: Peer, tmp_path: Path) -> None:
    def untold(answer: Answer) -> Answer:
        """The first receipt of an exchange is withheld, the others come."""
        body = json.loads(answer[2])
        for one in body["sealed"][:1]:
            body["sealed"].remove(one)
            name = {"sequence": one["sequence"], "sha256": one["sha256"]}
            body["problems"].append({**name, "slug": "store-unavailable", "title": "对象存储暂不可用"})
        return reply(200, **body)

    peer.faults.extend([("exchange", untold)] * 6)
    terminal = Terminal(peer, tmp_path)
    await terminal.run()
    terminal.assert_closed(5)
    assert any("store-unavailable" in one["reason"] for one in terminal.events.named("retry"))
    assert len(terminal.events.named("sealed")) == 5


@pytest.mark.parametrize("damage", [b"\x01" * 1002, b"\x02" * 1001], ids=["altered", "cut short"])
async def test_a_segment_damaged_in_the_spool_is_never_sealed(peer: Peer, tmp_path: Path, damage: bytes) -> None:
    terminal = Terminal(peer, tmp_path)
    (terminal.recording.path / "00000002.seg").write_bytes(damage)
    await terminal.run()
    assert sorted(len(data) for data in peer.objects.values()) == [1000, 1001, 1003, 1004]
    (error,) = terminal.events.named("error")
    assert "片段 2 在暂存区中已损坏" in error["reason"]
    (done,) = (tmp_path / "done").iterdir()
    assert (done / "00000002.damaged").read_bytes() == damage


async def test_a_receipt_by_another_key_frees_nothing(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=3)
    right, peer.key = peer.key, Ed25519PrivateKey.generate()
    async with Api(peer.url, terminal.key) as api:
        pinned = Pinned({verify.key_id(raw_public(right)): right.public_key()}, "none")
        uplink = Uplink(terminal.recording, api, terminal.key, pinned, terminal.events)
        uplink.end(interrupted=False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(uplink.run(), 1)
    assert len(terminal.events.named("error")) >= 3
    assert not terminal.events.named("sealed")
    assert list(terminal.again().pending) == [0, 1, 2]


async def test_a_weaker_lock_than_pinned_is_no_receipt(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=1)
    async with Api(peer.url, terminal.key) as api:
        uplink = terminal.uplink(api, lock="compliance")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(uplink.run(), 0.7)
    assert list(terminal.again().pending) == [0]


async def test_an_expired_ticket_is_never_used(peer: Peer, tmp_path: Path) -> None:
    peer.ticket_life = timedelta(seconds=-1)
    terminal = Terminal(peer, tmp_path, segments=2)

    async def later(_: Uplink) -> None:
        await asyncio.sleep(0.4)
        assert not any("store" in request for request in peer.requests)
        peer.ticket_life = timedelta(minutes=14)

    await terminal.run(later)
    terminal.assert_closed(2)


@pytest.mark.parametrize("ahead", [timedelta(hours=9), timedelta(days=-400)], ids=["behind", "ahead"])
async def test_a_wrong_clock_follows_the_servers_for_signatures_alone(
    peer: Peer, tmp_path: Path, ahead: timedelta
) -> None:
    peer.clock_ahead = ahead
    terminal = Terminal(peer, tmp_path, segments=3)
    await terminal.run()
    terminal.assert_closed(3)
    asked = [datetime.fromisoformat(ask["started_at"]) for _, ask in sorted(peer.asked.items())]
    assert asked == [NOW + timedelta(seconds=n) for n in range(3)]


async def test_the_same_closing_is_sent_after_a_death(peer: Peer, tmp_path: Path) -> None:
    peer.faults.extend([("close", "drop-after")] * 50)
    terminal = Terminal(peer, tmp_path, segments=2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await terminal.run()
    peer.faults.clear()
    terminal.again()
    async with Api(peer.url, terminal.key) as api:
        uplink = terminal.uplink(api)
        uplink.end(interrupted=True)
        await uplink.run()
    terminal.assert_closed(2)
    closings = peer.closings[str(terminal.recording.id)]
    assert len(closings) > 1
    assert all(closing == closings[0] for closing in closings)


async def test_a_manifest_that_says_something_else_is_not_believed(peer: Peer, tmp_path: Path) -> None:
    def forged(answer: Answer) -> Answer:
        body = json.loads(answer[2])
        manifest = wire.Envelope.model_validate(body["manifest"]).decoded()
        manifest["segments"].pop()
        return reply(200, **body | {"manifest": sign(peer.key, wire.MANIFEST_TYPE, manifest)})

    peer.faults.extend([("close", forged)] * 2)
    terminal = Terminal(peer, tmp_path)
    await terminal.run()
    assert len(terminal.events.named("error")) == 2
    terminal.assert_closed(5)


async def test_what_the_server_closed_without_us_is_finished_by_a_supplement(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=2)
    recording = str(terminal.recording.id)

    async def go_on_when_closed(uplink: Uplink) -> None:
        await terminal.events.sealed(2)
        peer.close_by_server(recording)
        terminal.append()
        uplink.wake()

    await terminal.run(go_on_when_closed)
    terminal.assert_closed(3)
    closings = [wire.Envelope.model_validate(one).decoded() for one in peer.closings[recording]]
    assert [(one.get("number"), one.get("sequences")) for one in closings] == [(None, None), (1, [2])]
    assert terminal.events.named("closed")[0]["closed_by"] == "terminal"


async def test_what_the_server_closed_in_full_needs_no_supplement(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=2)

    async def closed_meanwhile(uplink: Uplink) -> None:
        await terminal.events.sealed(2)
        peer.close_by_server(str(terminal.recording.id))

    await terminal.run(closed_meanwhile)
    terminal.assert_closed(2)
    assert len(peer.manifests[str(terminal.recording.id)]) == 1
    assert terminal.events.named("closed")[0]["closed_by"] == "server"


async def test_a_supplement_that_the_server_closed_first_is_looked_at_again(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=2)
    recording = str(terminal.recording.id)

    def overtaken(answer: Answer) -> Answer:
        """Between the terminal's question and its closing, the server closes the idle supplement."""
        if answer[0] == 404:
            peer.close_by_server(recording)
        return answer

    async def go_on_when_closed(uplink: Uplink) -> None:
        await terminal.events.sealed(2)
        peer.close_by_server(recording)
        terminal.append()
        uplink.wake()
        peer.faults.append(("manifests/1", overtaken))

    await terminal.run(go_on_when_closed)
    terminal.assert_closed(3)
    assert [one["closed_by"] for one in peer.manifests[recording]] == ["server", "server"]


async def test_a_manifest_of_the_server_by_a_strangers_key_is_not_believed(peer: Peer, tmp_path: Path) -> None:
    terminal = Terminal(peer, tmp_path, segments=2)

    def forged(answer: Answer) -> Answer:
        body = json.loads(answer[2])
        payload = wire.Envelope.model_validate(body["manifest"]).decoded()
        body["manifest"] = sign(Ed25519PrivateKey.generate(), wire.MANIFEST_TYPE, payload)
        return reply(200, **body)

    async def closed_meanwhile(uplink: Uplink) -> None:
        await terminal.events.sealed(2)
        peer.close_by_server(str(terminal.recording.id))
        peer.faults.append(("manifests/0", forged))

    await terminal.run(closed_meanwhile)
    terminal.assert_closed(2)
    assert "未通过验证" in terminal.events.named("error")[0]["reason"]


async def test_enrolment_is_repeatable_until_answered_and_then_final(peer: Peer, tmp_path: Path) -> None:
    home = Home(tmp_path)
    peer.faults.extend([("enrolments", "drop"), ("enrolments", "drop-after")])
    enrolled = await enrol(home, api=peer.url, code="GOOD-CODE", model="m")
    assert home.enrolled() == enrolled
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert enrolled.key_id == verify.key_id(raw_public(home.key()))
    with pytest.raises(AlreadyEnrolled):
        await enrol(home, api=peer.url, code="GOOD-CODE", model="m")
    with pytest.raises(EnrolmentFailed, match="code-used"):
        await enrol(Home(tmp_path / "other"), api=peer.url, code="GOOD-CODE", model="m")


async def test_retry_after_is_honoured() -> None:
    response = httpx.Response(503, headers={"retry-after": "7"})
    assert refusal(response).retry_after == 7
    assert Backoff().next(7) == 7
