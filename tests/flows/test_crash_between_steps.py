"""Between the numbered steps of the sealing cycle: a crash, a repetition, a race or a lie changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider

from deploy.local.processes import LocalError
from services.vault.contract import wire
from tests.flows.evidence import assert_log_is_whole
from tests.flows.hand_terminal import HandRecording, HandTerminal, put, some_bytes
from tests.system import System, running


@pytest.fixture(scope="module")
def terminal(system: System) -> Iterator[HandTerminal]:
    with HandTerminal(system) as terminal:
        yield terminal


def kill_vault(system: System) -> None:
    """SIGKILL; back when it answers again."""
    vault = system.stack.vault
    assert vault
    pid = vault.pid
    vault.kill()
    vault.wait_ready()
    assert vault.pid != pid


def only_problem(result: wire.ExchangeResult) -> str:
    assert not result.tickets
    assert not result.sealed
    assert len(result.problems) == 1
    return result.problems[0].slug


def test_asked_but_never_put_is_not_receipted_and_may_be_asked_again(system: System, terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)
    first = recording.ask(ask).tickets[0]
    kill_vault(system)
    assert only_problem(recording.commit(ask)) == "not-stored"
    again = recording.ask(ask).tickets[0]
    # The intent is the one that was stored: the same object under the same lock.
    assert again.url.split("?")[0] == first.url.split("?")[0]
    for name in ("x-amz-checksum-sha256", "x-amz-object-lock-retain-until-date", "content-length"):
        assert again.headers.get(name) == first.headers.get(name)
    assert put(again, data) == 200
    recording.receipt(recording.commit(ask), ask)


def test_put_but_never_committed_is_receipted_by_a_vault_that_died_in_between(
    system: System, terminal: HandTerminal
) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)
    ticket = recording.ask(ask).tickets[0]
    assert put(ticket, data) == 200
    kill_vault(system)
    assert put(ticket, data) == 412, "already there: either way go on"
    recording.receipt(recording.commit(ask), ask)
    assert recording.close(recording.closing([ask])).status_code == 200
    assert_log_is_whole(system)


def test_a_receipt_whose_answer_was_lost_comes_again_after_a_crash(system: System, terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)
    assert put(recording.ask(ask).tickets[0], data) == 200
    recording.exchange(commits=[ask])  # its answer never arrives
    kill_vault(system)
    committed = recording.receipt(recording.commit(ask), ask)
    asked = recording.receipt(recording.ask(ask), ask)
    assert committed == asked


def test_the_same_commit_twice_gives_the_identical_receipt(terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)
    assert put(recording.ask(ask).tickets[0], data) == 200
    first = recording.receipt(recording.commit(ask), ask)
    assert recording.receipt(recording.commit(ask), ask) == first


def test_an_ask_for_what_is_sealed_answers_with_its_receipt(terminal: HandTerminal) -> None:
    recording = terminal.begin()
    ask = recording.seal(0, some_bytes())
    result = recording.ask(ask)
    assert not result.tickets
    recording.receipt(result, ask)


def test_a_commit_raced_from_eight_threads_gives_one_receipt(system: System, terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes(200_000)
    asks = [recording.segment(sequence, data + bytes([sequence])) for sequence in range(4)]
    for ticket, ask in zip(recording._result(recording.exchange(asks=asks)).tickets, asks, strict=True):
        assert put(ticket, data + bytes([ask.sequence])) == 200
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: recording.exchange(commits=asks), range(8)))
    told = [wire.ExchangeResult.model_validate_json(answer.content).sealed for answer in answers]
    for sealed in zip(*told, strict=True):
        receipts = {segment.receipt.model_dump_json() for segment in sealed}
        assert len(receipts) == 1
    # Nor was anything counted twice by the api.
    with system.sign_in("li") as client:
        row = client.get(f"/v1/recordings/{recording.id}").json()["row"]
    assert (row["segments"], row["bytes"]) == (4, sum(ask.size for ask in asks))


def test_an_ask_and_its_commit_raced_from_eight_threads_end_in_one_receipt(terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)

    def cycle(_: int) -> str:
        result = recording.ask(ask)
        if result.tickets:
            assert put(result.tickets[0], data) in (200, 412)
            result = recording.commit(ask)
        return json.dumps(recording.receipt(result, ask))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(cycle, range(8)))) == 1


def test_an_ask_that_tells_other_times_or_another_size_is_refused(terminal: HandTerminal) -> None:
    recording, data = terminal.begin(), some_bytes()
    ask = recording.segment(0, data)
    recording.ask(ask)
    for change in ({"size": ask.size + 1}, {"duration_ms": 7}, {"monotonic_ms": 7}, {"media": "media"}):
        assert only_problem(recording.ask(ask.model_copy(update=change))) == "ask-differs"


def test_a_fifth_digest_of_one_sequence_is_refused(terminal: HandTerminal) -> None:
    recording = terminal.begin()
    kept = [recording.seal(0, some_bytes()) for _ in range(wire.MAX_DIGESTS_PER_SEQUENCE)]
    assert only_problem(recording.ask(recording.segment(0, some_bytes()))) == "too-many-digests"
    # The closing's root decides which of the four it was.
    closed = recording.close(recording.closing([kept[2]]))
    assert closed.status_code == 200, closed.text
    assert [s["sha256"] for s in manifest_of(closed)["segments"]] == [kept[2].sha256]


def test_no_more_than_four_digests_of_one_sequence_are_taken_from_eight_threads(terminal: HandTerminal) -> None:
    recording = terminal.begin()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(recording.ask, [recording.segment(0, some_bytes()) for _ in range(8)]))
    tickets = [ticket for result in results for ticket in result.tickets]
    assert len(tickets) == wire.MAX_DIGESTS_PER_SEQUENCE
    assert {p.slug for result in results for p in result.problems} == {"too-many-digests"}


def test_closing_twice_gives_the_same_manifest(system: System, terminal: HandTerminal) -> None:
    recording = terminal.begin()
    asks = [recording.seal(sequence, some_bytes()) for sequence in range(3)]
    closing = recording.closing(asks)
    first = recording.close(closing)
    assert first.status_code == 200, first.text
    kill_vault(system)
    second = recording.close(closing)
    assert second.json() == first.json()
    other = recording.close(recording.closing(asks[:2], missing=[2]))
    assert (other.status_code, other.json()["slug"]) == (409, "closing-differs")
    entered = system.stack.postgres.run_sql(
        f"SELECT count(*) FROM vault.manifests WHERE recording_id = '{recording.id}' AND version IS NOT NULL"
    )
    assert entered.strip() == "1"


def test_closing_raced_from_eight_threads_enters_one_manifest(system: System, terminal: HandTerminal) -> None:
    recording = terminal.begin()
    closing = recording.closing([recording.seal(0, some_bytes())])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: recording.close(closing), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert_log_is_whole(system)


@pytest.mark.parametrize("system", ["minio"], indirect=True)
def test_closed_while_the_store_took_nothing_the_manifest_is_sealed_once_it_does(
    system: System, terminal: HandTerminal
) -> None:
    """Killed between the transaction that closes and the manifest's way to the store."""
    minio, vault = system.stack.minio, system.stack.vault
    assert minio and vault
    root = StaticProvider(minio.access_key, minio.secret_key)
    admin = MinioAdmin(endpoint=minio.endpoint, credentials=root, secure=False)
    putting = system.stack.vault_environment()["QUANCHENG_VAULT_S3_PUT_ACCESS_KEY"]
    recording = terminal.begin()
    closing = recording.closing([recording.seal(0, some_bytes())])
    version = f"SELECT version FROM vault.manifests WHERE recording_id = '{recording.id}'"
    admin.user_disable(putting)
    try:
        refused = recording.close(closing)
        assert (refused.status_code, refused.json()["slug"]) == (503, "store-unavailable")
        assert system.stack.postgres.run_sql(version) == "\n", "closed, and not in the store"
        vault.kill()
    finally:
        admin.user_enable(putting)
    vault.wait_ready(60)
    closed = recording.close(closing)
    assert closed.status_code == 200, closed.text
    assert system.stack.postgres.run_sql(version).strip()
    assert_log_is_whole(system)


def test_closing_with_a_segment_outstanding_says_which(terminal: HandTerminal) -> None:
    recording = terminal.begin()
    data = some_bytes()
    asks = [recording.seal(0, some_bytes()), recording.segment(1, data), recording.seal(2, some_bytes())]
    ticket = recording.ask(asks[1]).tickets[0]
    closing = recording.closing(asks)
    refused = recording.close(closing)
    assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
    assert refused.json()["slug"] == "segments-outstanding"
    assert refused.json()["outstanding"] == [{"sequence": 1}]
    # Nothing was settled by the refusal: the segment may still come.
    assert put(ticket, data) == 200
    recording.receipt(recording.commit(asks[1]), asks[1])
    assert recording.close(closing).status_code == 200


def test_a_closing_by_another_key_is_refused(terminal: HandTerminal, system: System) -> None:
    recording = terminal.begin()
    ask = recording.seal(0, some_bytes())
    stranger = recording.close(recording.closing([ask], by=Ed25519PrivateKey.generate()))
    assert (stranger.status_code, stranger.json()["slug"]) == (422, "bad-closing")
    with HandTerminal(system) as other:
        # Enrolled, and of the same recorder; but not the key this recording was opened with.
        enrolled = recording.close(recording.closing([ask], by=other.key))
        assert (enrolled.status_code, enrolled.json()["slug"]) == (422, "bad-closing")
    assert recording.close(recording.closing([ask])).status_code == 200


def test_a_closing_that_leaves_out_what_was_sealed_is_refused_unless_it_declares_it(terminal: HandTerminal) -> None:
    recording = terminal.begin()
    asks = [recording.seal(sequence, some_bytes()) for sequence in (0, 1, 3)]
    undeclared = recording.close(recording.closing(asks))
    assert undeclared.status_code in (409, 422)
    closed = recording.close(recording.closing(asks, missing=[2]))
    assert closed.status_code == 200, closed.text
    assert manifest_of(closed)["missing"] == [2]


def test_what_lands_after_the_closing_changes_no_manifest_and_is_receipted_all_the_same(
    terminal: HandTerminal,
) -> None:
    recording, late = terminal.begin(), some_bytes()
    sealed, asked = recording.seal(0, some_bytes()), recording.segment(1, late)
    ticket = recording.ask(asked).tickets[0]
    closing = recording.closing([sealed])
    closed = manifest_of(recording.close(closing))
    assert put(ticket, late) == 200
    recording.receipt(recording.commit(asked), asked)
    assert manifest_of(recording.close(closing)) == closed
    recording.receipt(recording.ask(sealed), sealed)
    supplement = manifest_of(recording.close(recording.closing([asked], number=1)))
    assert [s["sha256"] for s in supplement["segments"]] == [asked.sha256]


def test_a_recording_is_its_terminals_alone(terminal: HandTerminal, system: System) -> None:
    recording = terminal.begin()
    ask = recording.seal(0, some_bytes())
    with HandTerminal(system) as other:
        foreign = HandRecording(other, recording.id)
        opened = other.http.put(f"/v1/recordings/{recording.id}", json={"started_at": foreign.started_at})
        assert (opened.status_code, opened.json()["slug"]) == (409, "recording-differs")
        closed = foreign.close(foreign.closing([ask]))
        assert closed.status_code in (404, 422)
    assert recording.close(recording.closing([ask])).status_code == 200


def manifest_of(closed: Any) -> dict[str, Any]:
    return wire.ClosedRecording.model_validate_json(closed.content).manifest.decoded()


def test_a_vault_on_a_restored_database_refuses_to_serve_until_it_is_healed() -> None:
    """An old copy of the database would give indexes a second time: a fork of the log."""
    with running(None) as system:
        stack = system.stack
        assert stack.api and stack.vault

        def swapped(change: Callable[[], None]) -> None:
            assert stack.api and stack.vault
            stack.api.stop()
            stack.vault.stop()
            change()

        swapped(lambda: stack.postgres.clone_database("quancheng", "old_copy"))
        stack.vault.start()
        stack.api.start()
        with HandTerminal(system) as terminal:
            recording = terminal.begin()
            ask = recording.seal(0, some_bytes())
            assert recording.close(recording.closing([ask])).status_code == 200
            assert_log_is_whole(system)

            swapped(lambda: rename(system, ("quancheng", "newest"), ("old_copy", "quancheng")))
            with pytest.raises(LocalError) as refusal:
                stack.vault.start()
            assert stack.vault.pid is None
            said = stack.vault.log_path.read_text()
            assert "早于已公布的检查点" in str(refusal.value)
            assert "数据库可能是旧备份" in said
            assert "拒绝启动" in said

            swapped(lambda: rename(system, ("quancheng", "old_copy"), ("newest", "quancheng")))
            stack.vault.start()
            stack.api.start()
            assert_log_is_whole(system)
            recording.receipt(recording.ask(ask), ask)


def rename(system: System, *changes: tuple[str, str]) -> None:
    for old, new in changes:
        system.stack.postgres.run_sql(f"ALTER DATABASE {old} RENAME TO {new}", database="postgres")
