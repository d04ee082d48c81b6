"""Clocks are stepped by hours while the system runs: what must stop stops, and nothing is lost, doubled or left
waiting for the hours that never were."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from uuid_utils.compat import uuid7

from deploy.local.processes import ROOT, Supervised
from services.vault.contract import wire
from services.vault.contract.client import VaultClient, VaultRefused
from tests.flows.clocks import Clock
from tests.flows.evidence import assert_log_is_whole
from tests.peers.authority import Authority
from tests.rooms.liar import Answer, Gateway, Request, gateway, truthful
from tests.rooms.orders import keeper, order, signed
from tests.rooms.sealed import ask, open_recording
from tests.system import System, free_ports, running

SOON = 45.0
"""Seconds within which everything goes on after a step; the steps are of hours."""
SETTINGS = {"QUANCHENG_VAULT_WATCH_SECONDS": "1", "QUANCHENG_VAULT_SWEEP_AFTER_SECONDS": "3"}
FIRST, SECOND = keeper("档案员甲"), keeper("法制员乙")


@dataclass
class Rig:
    system: System
    clock: Clock
    vault: VaultClient
    own_clock: bool
    """Whether the store has a clock of its own."""
    asked: dict[tuple[UUID, int], wire.SegmentAsk] = field(default_factory=dict)
    """The same again is asked in the same words."""

    async def until(self, look: Callable[[], Awaitable[Any]], what: str) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SOON
        while not (found := await look()):
            assert loop.time() < deadline, f"not within {SOON} s: {what}"
            await asyncio.sleep(0.2)
        return found

    def sql(self, query: str) -> str:
        return self.system.stack.postgres.run_sql(query).strip()

    async def ask(self, recording: UUID, sequence: int, data: bytes) -> wire.Ticket | None:
        """A ticket, or None where tickets are stopped."""
        try:
            asked = self.asked.setdefault((recording, sequence), ask(sequence, data))
            told = await self.vault.exchange(recording, wire.ExchangeRequest(asks=[asked]))
        except VaultRefused as refused:
            if (refused.problem.status, refused.problem.slug) == (503, "clock-drift"):
                return None
            raise
        return told.tickets[0]

    async def put(self, recording: UUID, sequence: int, data: bytes) -> wire.SegmentName:
        ticket = await self.until(lambda: self.ask(recording, sequence, data), "a ticket")
        async with httpx.AsyncClient(trust_env=False) as store:
            answer = await store.put(ticket.url, content=data, headers=ticket.headers)
        assert answer.status_code in (200, 412), answer.text
        return wire.SegmentName(sequence=sequence, sha256=ticket.sha256)

    async def commit(self, recording: UUID, name: wire.SegmentName) -> wire.SealedSegment:
        told = await self.vault.exchange(recording, wire.ExchangeRequest(commits=[name]))
        assert not told.problems, told.problems
        return told.sealed[0]

    async def read(self, recording: UUID, name: wire.SegmentName) -> bytes:
        tickets = await self.vault.read_tickets(recording, wire.ReadTicketsRequest(items=[name]))
        async with httpx.AsyncClient(trust_env=False) as store:
            answer = await store.get(tickets.tickets[0].url, headers=tickets.tickets[0].headers)
        answer.raise_for_status()
        return answer.content

    async def act(self) -> wire.Appended:
        someone = str(uuid4())
        fields = {"recording": someone, "person": someone, "purpose": "training", "until": "2026-11-23T18:00:00.000Z"}
        return await self.vault.append(wire.Append(act=uuid7(), kind="viewing", fields=fields))

    async def alarms(self) -> set[str]:
        return {alarm.kind for alarm in (await self.vault.alarms(200)).alarms}

    def dispose(self, folder: Path, recording: UUID, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command, on the stepped clock."""
        # Valid in the hour that a stepped clock shows too, so that it is not the order's time that is refused.
        now = datetime.now(UTC)
        valid = {"issued_at": now - timedelta(hours=5), "expires_at": now + timedelta(hours=18)}
        vault = self.system.stack.vault_environment()["QUANCHENG_VAULT_ORIGIN"]
        what = order("dispose", vault=vault, basis="期限届满，已鉴定", recordings=[recording], **valid)
        path = folder / f"order-{what.id}.json"
        path.write_text(signed(what, FIRST, SECOND).model_dump_json())
        return self.command("dispose", str(path), **environment)

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = self.system.stack.vault_environment() | environment
        kept = self.system.stack.data / "secrets" / "store-dispose.json"
        if kept.exists():
            told = json.loads(kept.read_text())
            given |= {f"QUANCHENG_STORE_DISPOSE_{part.upper()}_KEY": told[part] for part in ("access", "secret")}
        argv = [sys.executable, "-m", "services.vault", *arguments]
        return subprocess.run(argv, env=given, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    folder = Path(tempfile.mkdtemp(prefix="quancheng-tsa-"))
    with Authority(folder / "one", key="ec") as made:
        yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["local", "minio"])
def stepped(
    request: pytest.FixtureRequest, faketime: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[System, Clock]]:
    """On MinIO the vault's clock alone is another; on the folder, which is one server's, the api's as well."""
    minio = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    clock = Clock(faketime, tmp_path_factory.mktemp("clock"))
    tsas = json.dumps([{"url": authority.url, "certificate": str(authority.certificate)}])
    with running(minio, settings=SETTINGS | {"QUANCHENG_VAULT_TSAS": tsas}) as system:
        stack = system.stack
        assert stack.vault and stack.api
        stack.vault = restarted(system, stack.vault, "vault", stack.vault_environment() | clock.environment())
        if minio is None:
            stack.api = restarted(system, stack.api, "api", stack.api_environment() | clock.environment())
        yield system, clock


def restarted(system: System, old: Supervised, name: str, environment: dict[str, str]) -> Supervised:
    old.stop()
    url = system.stack.vault_url if name == "vault" else system.stack.api_url
    fresh = system.stack._service(old.name, name, environment, url)
    fresh.start()
    return fresh


@pytest.fixture
async def rig(stepped: tuple[System, Clock]) -> AsyncIterator[Rig]:
    system, clock = stepped
    async with system.vault() as vault:
        yield Rig(system, clock, vault, system.stack.minio is not None)
    clock.step(0)


@pytest.mark.parametrize("hours", [3, -3])
async def test_a_clock_stepped_by_hours_and_back_stops_what_it_must_and_loses_nothing(rig: Rig, hours: int) -> None:
    pieces = [f"{hours} {n}".encode() for n in range(6)]
    recording, other = await open_recording(rig.vault), await open_recording(rig.vault)
    before = await rig.put(recording, 0, pieces[0])
    receipts = [await rig.commit(recording, before)]
    waiting = await rig.put(recording, 1, pieces[1])
    await rig.put(other, 0, pieces[2])
    first_act = await rig.act()

    rig.clock.step(hours)
    if rig.own_clock:
        # 1. No ticket, and it is said why.
        await rig.until(lambda: stopped(rig, recording, pieces[5]), "tickets stop")
        assert "clock-drift" in await rig.alarms()
    else:
        # The hour a vault tells is up to a second old, and for as long it refuses callers of its own new hour.
        await rig.until(lambda: known(rig), "callers follow the vault's clock")
    # 2. Commits, reads and the log go on.
    receipts.append(await rig.commit(recording, waiting))
    assert await rig.read(recording, before) == pieces[0]
    during = await rig.act()
    assert during.index > first_act.index
    # 3. What was put and not committed is found by itself.
    await rig.until(lambda: sealed(rig, other, 0), "the sweeper looks")
    # 4. A hold reaches the store's flags at once, not in three hours.
    hold = (await rig.vault.hold(uuid7(), wire.PlaceHold(case=uuid7(), reason="行政复议", recordings=[recording]))).id
    await rig.until(lambda: settled(rig, hold), "the hold is placed")
    stray = None if rig.own_clock else await rig.put(other, 1, pieces[4])

    rig.clock.step(0)
    # 5. Back: everything goes on within seconds, and what the stepped clock wrote down waits for nothing.
    await rig.until(lambda: known(rig), "callers follow the vault's clock back")
    more = await rig.put(recording, 3, pieces[3])
    receipts.append(await rig.commit(recording, more))
    await rig.until(lambda: drifts_no_more(rig), "the alarm is cleared")
    if stray is not None:
        await rig.until(lambda: sealed(rig, other, 1), "what was asked for in the other hours is swept")
    assert (await rig.act()).index > during.index
    if hours > 0:
        await rig.until(lambda: told_of(rig, recording, waiting), "the statement of a minute that is yet to come")
    last = await rig.act()
    await rig.until(lambda: stamped(rig, last.index), "a time-stamp on it")

    # 6. Nothing is lost, and nothing is there twice.
    for name, receipt in zip((before, waiting, more), receipts, strict=True):
        assert (await rig.vault.receipt(recording, name)).receipt == receipt.receipt
        assert await rig.read(recording, name) == pieces[name.sequence]
    assert (
        rig.sql("SELECT count(*) FROM (SELECT act FROM vault.log_entries GROUP BY act HAVING count(*) > 1) AS t")
        == "0"
    )
    assert_log_is_whole(rig.system)


async def test_nothing_is_disposed_of_by_a_clock_that_is_ahead(rig: Rig, tmp_path: Path) -> None:
    for each in (FIRST, SECOND):
        done = await asyncio.to_thread(rig.command, "enrol-custodian", each.name, each.public_text)
        assert done.returncode == 0, done.stderr
    recording = await open_recording(rig.vault)
    name = await rig.put(recording, 0, b"kept")
    await rig.commit(recording, name)
    end = datetime.now(UTC) + timedelta(hours=1)
    await rig.vault.set_term(recording, wire.SetTerm(keep_until=end, basis="期限"))
    rig.clock.step(3)
    done = await asyncio.to_thread(rig.dispose, tmp_path, recording, **rig.clock.environment())
    assert done.returncode != 0
    assert "时钟" in done.stdout + done.stderr, done.stdout + done.stderr
    assert await rig.read(recording, name) == b"kept"
    rig.clock.step(0)


async def test_a_store_whose_clock_is_ahead_gets_no_tickets_and_loses_nothing(
    minio_binary: Path, tmp_path: Path
) -> None:
    """Its locks lapse by its own clock, so that nothing may be deleted while it is wrong."""
    port = free_ports()
    where: Any = SimpleNamespace(endpoint=f"127.0.0.1:{port + 2}")
    with (
        gateway(where) as gate,
        running(
            minio_binary, port=port, settings=SETTINGS | {"QUANCHENG_VAULT_S3_ENDPOINT": gate.endpoint}
        ) as system,
    ):
        async with system.vault() as vault:
            rig = Rig(system, SimpleNamespace(step=None), vault, True)  # type: ignore[arg-type]
            for each in (FIRST, SECOND):
                done = await asyncio.to_thread(rig.command, "enrol-custodian", each.name, each.public_text)
                assert done.returncode == 0, done.stderr
            recording = await open_recording(vault)
            name = await rig.put(recording, 0, b"one")
            gate.lie = ahead(timedelta(minutes=10))
            await rig.until(lambda: stopped(rig, recording, b"three"), "tickets stop")
            assert "clock-drift" in await rig.alarms()
            await rig.commit(recording, name)
            done = await asyncio.to_thread(rig.dispose, tmp_path, recording)
            assert done.returncode != 0 and "时钟" in done.stdout + done.stderr
            assert await rig.read(recording, name) == b"one"
            gate.lie = truthful
            await rig.commit(recording, await rig.put(recording, 1, b"two"))


async def known(rig: Rig) -> bool:
    try:
        await rig.alarms()
    except VaultRefused as refused:
        if refused.problem.slug != "not-authenticated":
            raise
        return False
    return True


def ahead(by: timedelta) -> Callable[[Gateway, Request], Answer]:
    def lie(gate: Gateway, request: Request) -> Answer:
        answer, now = gate.forward(request), datetime.now(UTC) + by
        told = answer.headers | {"date": now.strftime("%a, %d %b %Y %H:%M:%S GMT")}
        return Answer(answer.status, told, answer.body)

    return lie


async def stopped(rig: Rig, recording: UUID, data: bytes) -> bool:
    return await rig.ask(recording, 9, data) is None


async def sealed(rig: Rig, recording: UUID, sequence: int) -> bool:
    this = f"recording_id = '{recording}' AND sequence = {sequence} AND state = 'sealed'"
    return await asyncio.to_thread(rig.sql, f"SELECT count(*) FROM vault.segments WHERE {this}") == "1"


async def settled(rig: Rig, hold: UUID) -> bool:
    state = await rig.vault.hold_state(hold)
    return state.objects == state.settled > 0


async def told_of(rig: Rig, recording: UUID, name: wire.SegmentName) -> bool:
    this = f"recording_id = '{recording}' AND sequence = {name.sequence} AND statement_act IS NOT NULL"
    return await asyncio.to_thread(rig.sql, f"SELECT count(*) FROM vault.segments WHERE {this}") == "1"


async def drifts_no_more(rig: Rig) -> bool:
    return "clock-drift" not in await rig.alarms()


async def stamped(rig: Rig, index: int) -> bool:
    # A token a minute: those that were queued lie in the past.
    rig.sql("UPDATE vault.timestamps SET minute = '2000-01-01Z'::timestamptz + size * interval '1 min'")
    return ((await rig.vault.log_state()).stamps.size or 0) > index
