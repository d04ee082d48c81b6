"""Put and never committed: found and sealed by the vault alone, so that nothing in the store is unknown to it."""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.commonconfig import COMPLIANCE
from minio.retention import Retention

from deploy.local.stack import Stack, run_apart
from services.vault.contract import wire
from services.vault.settings import Settings
from services.vault.stores import open_store
from services.vault.stores.port import Store, StoredName
from tests.flows.hand_terminal import HandRecording, HandTerminal, put, some_bytes
from tests.system import System, running


@pytest.fixture(scope="module", params=["local", "minio"])
def hasty(request: pytest.FixtureRequest) -> Iterator[System]:
    """A system whose sweeper looks after half a second, and for five."""
    minio: Path | None = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    settings = {
        "QUANCHENG_VAULT_SWEEP_AFTER_SECONDS": "0.5",
        "QUANCHENG_VAULT_SWEEP_FOR_SECONDS": "5",
        "QUANCHENG_VAULT_SWEEP_EVERY_SECONDS": "0.1",
    }
    with running(minio, settings=settings) as system:
        yield system


@pytest.fixture(scope="module")
def terminal(hasty: System) -> Iterator[HandTerminal]:
    with HandTerminal(hasty) as terminal:
        yield terminal


@pytest.fixture(scope="module")
def patient(system: System) -> Iterator[HandTerminal]:
    """Of a system whose sweeper comes after a quarter of an hour."""
    with HandTerminal(system) as terminal:
        yield terminal


def state_of(system: System, recording: HandRecording, ask: wire.SegmentAsk) -> str:
    query = f"SELECT state FROM vault.segments WHERE recording_id = '{recording.id}' AND sha256 = '{ask.sha256}'"
    return system.stack.postgres.run_sql(query).strip()


def until(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def manifest_of(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return wire.ClosedRecording.model_validate_json(answer.content).manifest.decoded()


async def alarms_of(system: System) -> set[tuple[str, str]]:
    async with system.vault() as vault:
        return {(each.kind, each.subject) for each in (await vault.alarms(200)).alarms}


def strays_of(system: System, recording: HandRecording) -> set[tuple[str, str]]:
    """Keys within the recording, and why each is a stray."""
    lines = system.stack.postgres.run_sql(
        f"SELECT key || ' ' || why FROM vault.strays WHERE recording_id = '{recording.id}'"
    ).split("\n")
    prefix = f"recordings/{recording.id}/"
    return {(key.removeprefix(prefix), why) for key, _, why in (line.partition(" ") for line in lines if line)}


def store_of(stack: Stack) -> Store:
    prefix = "QUANCHENG_VAULT_"
    whole = stack.vault_environment()
    given = {name.removeprefix(prefix).lower(): value for name, value in whole.items() if name.startswith(prefix)}
    return open_store(Settings.model_validate(given), b"")


def lay(system: System, key: str, data: bytes) -> None:
    """Put an object that nobody asked for, as a holder of the store's credentials could."""

    async def lie() -> None:
        store = store_of(system.stack)
        await store.put(key, data, (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0))
        await store.stop()

    run_apart(lie())


def test_put_then_the_vault_is_killed_and_nobody_comes_back(hasty: System, terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)
    ticket = recording.ask(ask).tickets[0]
    vault = hasty.stack.vault
    assert vault
    if hasty.stack.minio:
        vault.kill()  # the store is another process and takes the bytes without it
        assert put(ticket, data) == 200
    else:
        assert put(ticket, data) == 200
        vault.kill()
    vault.wait_ready()
    until(lambda: state_of(hasty, recording, ask) == "sealed")
    # Whoever comes back gets the receipt that lies ready.
    recording.receipt(recording.ask(ask), ask)
    assert manifest_of(recording.close(recording.closing([ask])))["count"] == 1


def test_bytes_that_trickle_in_late_are_found_by_a_later_look(hasty: System, terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)
    ticket = recording.ask(ask).tickets[0]
    looks = (
        "SELECT extract(epoch FROM sweep_at - ticket_at) FROM vault.segments"
        f" WHERE recording_id = '{recording.id}' AND state = 'asked'"
    )
    until(lambda: 1.5 < float(hasty.stack.postgres.run_sql(looks)) < 10, 5)
    assert put(ticket, data) == 200
    until(lambda: state_of(hasty, recording, ask) == "sealed")


def test_an_intent_lapses_in_the_end_and_a_new_ask_revives_it(hasty: System, terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)
    recording.ask(ask)
    until(lambda: state_of(hasty, recording, ask) == "lapsed")
    ticket = recording.ask(ask).tickets[0]
    assert state_of(hasty, recording, ask) == "asked"
    assert put(ticket, data) == 200
    until(lambda: state_of(hasty, recording, ask) == "sealed")


def test_a_commit_finds_what_came_after_the_intent_had_lapsed(hasty: System, terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)
    ticket = recording.ask(ask).tickets[0]
    until(lambda: state_of(hasty, recording, ask) == "lapsed")
    assert put(ticket, data) == 200
    recording.receipt(recording.commit(ask), ask)


def test_digests_that_were_only_asked_for_shut_the_real_one_out_no_longer_than_they_are_looked_for(
    hasty: System, terminal: HandTerminal
) -> None:
    recording, data = terminal.begin(), some_bytes()
    garbage = [recording.segment(1, some_bytes()) for _ in range(wire.MAX_DIGESTS_PER_SEQUENCE)]
    real = recording.segment(1, data)
    for each in garbage:
        assert recording.ask(each).tickets
    assert [one.slug for one in recording.ask(real).problems] == ["too-many-digests"]
    until(lambda: all(state_of(hasty, recording, each) == "lapsed" for each in garbage))
    recording.seal_as(real, data)
    # One that lapsed comes back only where there is room.
    again = wire.ExchangeResult.model_validate_json(recording.exchange(asks=garbage).content)
    assert (len(again.tickets), [one.slug for one in again.problems]) == (3, ["too-many-digests"])
    refused = next(each for each in garbage if each.sha256 == again.problems[0].sha256)
    assert state_of(hasty, recording, refused) == "lapsed"


def test_many_at_once_are_all_found(hasty: System, terminal: HandTerminal) -> None:
    recording = terminal.begin()
    pieces = [some_bytes(32) for _ in range(40)]
    asks = [recording.segment(n, piece) for n, piece in enumerate(pieces)]
    result = wire.ExchangeResult.model_validate_json(recording.exchange(asks=asks).content)
    for ticket in result.tickets:
        assert put(ticket, pieces[ticket.sequence]) == 200
    until(lambda: all(state_of(hasty, recording, ask) == "sealed" for ask in asks))


def test_a_closing_seals_what_was_put_and_not_committed(system: System, patient: HandTerminal) -> None:
    recording, late, asked_only = patient.begin(), some_bytes(), some_bytes()
    first, uncommitted, never = (
        recording.seal(0, some_bytes()),
        recording.segment(1, late),
        recording.segment(2, asked_only),
    )
    assert put(recording.ask(uncommitted).tickets[0], late) == 200
    recording.ask(never)
    manifest = manifest_of(recording.close(recording.closing([first])))
    assert [each["sha256"] for each in manifest["segments"]] == [first.sha256]
    assert [each["sha256"] for each in manifest["beside"]] == [uncommitted.sha256]
    recording.receipt(recording.ask(uncommitted), uncommitted)
    assert strays_of(system, recording) == set()


def test_what_nobody_asked_for_is_put_on_record_and_sounds_the_alarm(system: System, patient: HandTerminal) -> None:
    recording = patient.begin()
    ask = recording.seal(0, some_bytes())
    nobodys = ["0000000001-" + secrets.token_hex(32), "notes.txt", "deeper/0000000002-" + secrets.token_hex(32)]
    for name in nobodys:
        lay(system, f"recordings/{recording.id}/{name}", some_bytes())
    manifest = manifest_of(recording.close(recording.closing([ask])))
    assert (manifest["count"], manifest["beside"]) == (1, [])
    assert strays_of(system, recording) == {(name, "unknown") for name in nobodys}
    assert system.stack.vault
    said = system.stack.vault.log_path.read_text()
    for name in nobodys:
        assert f"alarm kind=stray-object subject=recordings/{recording.id}/{name} " in said
    told = asyncio.run(alarms_of(system))
    assert {("stray-object", f"recordings/{recording.id}/{name}") for name in nobodys} <= told


def test_a_second_version_and_a_delete_marker_are_strays(minio_system: System) -> None:
    minio = minio_system.stack.minio
    assert minio
    client = Minio(endpoint=minio.endpoint, access_key=minio.access_key, secret_key=minio.secret_key, secure=False)
    with HandTerminal(minio_system) as terminal:
        recording = terminal.begin()
        asks = [recording.seal(n, some_bytes()) for n in range(2)]
        keys = [f"recordings/{recording.id}/{ask.sequence:010d}-{ask.sha256}" for ask in asks]
        until_then = Retention(COMPLIANCE, datetime.now(UTC) + timedelta(days=1))
        client.put_object("quancheng-evidence", keys[0], io.BytesIO(b"other"), 5, retention=until_then)
        client.remove_object("quancheng-evidence", keys[1])
        manifest = manifest_of(recording.close(recording.closing(asks)))
        assert [each["sha256"] for each in manifest["segments"]] == [ask.sha256 for ask in asks]
        assert {why for _, why in strays_of(minio_system, recording)} == {"other-version", "deleted"}


def test_a_closing_waits_until_the_store_can_be_asked(minio_system: System) -> None:
    minio = minio_system.stack.minio
    assert minio
    with HandTerminal(minio_system) as terminal:
        recording = terminal.begin()
        closing = recording.closing([recording.seal(0, some_bytes())])
        minio.stop()
        try:
            refused = recording.close(closing)
            assert (refused.status_code, refused.json()["slug"]) == (503, "store-unavailable")
        finally:
            minio.start()
        assert manifest_of(recording.close(closing))["count"] == 1


def test_a_store_lists_every_object_of_a_prefix_over_many_pages(system: System) -> None:
    folder = f"listing/{secrets.token_hex(8)}"
    names = [f"{folder}/a/{n:04d}" for n in range(1010)] + [f"{folder}/ab"]
    if system.stack.minio:
        names.append(f"{folder}/b 1+2%")

    async def listed(*prefixes: str) -> list[list[StoredName]]:
        store = store_of(system.stack)
        places = asyncio.Semaphore(16)
        until_then = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)

        async def lie(key: str) -> None:
            async with places:
                await store.put(key, key.encode(), until_then)

        await asyncio.gather(*map(lie, names))
        found = [[each async for each in store.list(prefix)] for prefix in prefixes]
        await store.stop()
        return found

    whole, deep, begun, nothing = run_apart(listed(f"{folder}/", f"{folder}/a/", f"{folder}/a", f"{folder}/none/"))
    assert sorted(each.key for each in whole) == sorted(names)
    assert all(each.version and each.size == len(each.key) and not each.deleted for each in whole)
    assert (len(deep), nothing) == (1010, [])
    assert {each.key for each in begun} == {key for key in names if key.startswith(f"{folder}/a")}
