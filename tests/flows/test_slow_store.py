"""The link between vault and store trickles, and then is dead without a word: nobody waits for ever, and nothing that
does not need the store waits at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.vault.contract import wire
from tests.flows.evidence import assert_log_is_whole, eventually
from tests.flows.hand_terminal import HandRecording, HandTerminal, some_bytes
from tests.flows.link import Link
from tests.system import System, free_ports, running

BOUND = 25.0
"""Seconds after which whatever waits for the store has been answered; twelve are the vault's own."""
AT_ONCE = 5.0
SOON = 60.0


@dataclass
class Rig:
    system: System
    link: Link
    store: int

    def sql(self, query: str) -> str:
        return self.system.stack.postgres.run_sql(query).strip()

    def put(self, ticket: wire.Ticket, data: bytes) -> None:
        """By the holder's own way to the store, which is good."""
        url = ticket.url.replace(f":{self.link.port}/", f":{self.store}/", 1)
        headers = ticket.headers | {"host": f"127.0.0.1:{self.link.port}"}
        httpx.put(url, headers=headers, content=data, timeout=30, trust_env=False).raise_for_status()

    def alarms(self) -> set[str]:
        told = self.sql("SELECT kind FROM vault.alarms WHERE cleared_at IS NULL")
        return set(told.splitlines())


@pytest.fixture(scope="module")
def rig(minio_binary: Path) -> Iterator[Rig]:
    port = free_ports()
    with Link(port + 2) as link:
        settings = {"QUANCHENG_VAULT_S3_ENDPOINT": f"127.0.0.1:{link.port}"}
        with running(minio_binary, port=port, settings=settings) as system:
            yield Rig(system, link, port + 2)


@contextmanager
def no_transaction_waits(rig: Rig) -> Iterator[None]:
    """Whoever waits for the store holds no transaction meanwhile."""
    seen: list[str] = []
    done = threading.Event()
    query = """
        SELECT usename || ': ' || left(query, 80) FROM pg_stat_activity
        WHERE state LIKE 'idle in transaction%' AND now() - state_change > interval '2 seconds'
    """

    def look() -> None:
        while not done.wait(0.5):
            seen.extend(rig.sql(query).splitlines())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not seen


def timed(do: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return do(), time.monotonic() - began


@pytest.mark.parametrize("fault", ["trickles", "is dead"])
def test_while_the_store_is_slow_callers_are_answered_in_time_and_the_others_go_on(rig: Rig, fault: str) -> None:
    with HandTerminal(rig.system) as terminal, ThreadPoolExecutor(8) as pool:
        stuck: list[tuple[HandRecording, wire.SegmentAsk]] = []
        for _ in range(4):
            recording, data = terminal.begin(), some_bytes()
            ask = recording.segment(0, data)
            rig.put(recording.ask(ask).tickets[0], data)
            stuck.append((recording, ask))
        done, quick = terminal.begin(), terminal.begin()
        sealed = done.segment(0, b"done")
        rig.put(done.ask(sealed).tickets[0], b"done")
        receipt = done.receipt(done.commit(sealed), sealed)
        closing = done.closing([sealed])

        rig.link.trickle(20) if fault == "trickles" else rig.link.silence()
        try:
            with no_transaction_waits(rig):
                # 1. What needs the store is refused in time, plainly.
                waiting = [
                    pool.submit(timed, lambda one=one: one[0].exchange(commits=[one[1]]))  # type: ignore[misc]
                    for one in stuck
                ]
                closed = pool.submit(timed, lambda: done.close(closing))
                # 2. What does not is not kept waiting: tickets, receipts, the log.
                for number in range(3):
                    asked, took = timed(lambda n=number: quick.ask(quick.segment(n, some_bytes())))  # type: ignore[misc]
                    assert asked.tickets and took < AT_ONCE
                again, took = timed(lambda: done.ask(sealed))
                assert done.receipt(again, sealed) == receipt and took < AT_ONCE
                before = int(rig.sql("SELECT size FROM vault.log_head"))
                with HandTerminal(rig.system):  # an enrolment is entered in the log, and waits for its index
                    assert int(rig.sql("SELECT size FROM vault.log_head")) > before
                for each in (*waiting, closed):
                    answer, took = each.result(BOUND + 10)
                    assert took < BOUND
                    assert (answer.status_code, answer.json()["slug"]) == (503, "store-unavailable"), answer.text
            eventually(lambda: "store-away" in rig.alarms(), "an alarm", SOON)
        finally:
            rig.link.mend()
        # 3. Once the link is good everything is finished: by who asks again, and by itself.
        for recording, ask in stuck:
            eventually(lambda r=recording, a=ask: r.commit(a).sealed, "sealed", SOON)  # type: ignore[misc]
        eventually(lambda: done.close(closing).status_code == 200, "closed", SOON)
        eventually(lambda: "store-away" not in rig.alarms(), "the alarm is cleared", SOON)
        assert_log_is_whole(rig.system)
