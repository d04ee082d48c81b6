"""The vault's database is lost while a terminal streams and somebody watches: all go on by themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.flows.evidence import assert_log_is_whole, eventually, export
from tests.flows.live import SECOND_BY_SECOND, LiveTerminal, asks_of
from tests.rooms.losses import lose, start_vault, stop_vault, vault_command
from tests.system import System, running

SECONDS = 8


@pytest.fixture(scope="module", params=["local", "minio"])
def losing(request: pytest.FixtureRequest) -> Iterator[System]:
    minio = request.getfixturevalue("minio_binary") if request.param == "minio" else None
    with running(minio) as system:
        yield system


def rebuild(system: System) -> str:
    done = vault_command(system, "rebuild")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.one_store
def test_a_terminal_streams_through_the_loss_of_the_vault_s_database(losing: System) -> None:
    home = losing.new_terminal("streaming")
    with LiveTerminal(losing, home, "record", *SECOND_BY_SECOND, "--seconds", str(SECONDS)) as terminal:
        recording = terminal.recording
        terminal.wait_for("sealed", 3)
        stop_vault(losing)
        before = {int(event["sequence"]) for event in terminal.of("sealed")}
        lose(losing)
        rebuild(losing)
        start_vault(losing)
        assert terminal.finish() == 0, terminal.said[-20:]
    asks = asks_of(home / "done" / recording)
    assert len(asks) == SECONDS + 1
    bundle = export(losing, home, recording)
    verified = bundle.verify()
    assert verified.returncode == 0, verified.stdout
    assert [each["sha256"] for each in bundle.manifest()["segments"]] == [ask["sha256"] for ask in asks]
    told = {json.loads(line)["payload"] for line in bundle.receipts.read_text().splitlines()}
    assert before and len(told) == len(asks)
    assert_log_is_whole(losing)


@pytest.mark.one_store
def test_an_act_of_the_api_that_was_signed_and_not_published_is_told_again(losing: System) -> None:
    home = losing.new_terminal("watched")
    losing.terminal("record", home, *SECOND_BY_SECOND, "--seconds", "2")
    recording = next((home / "done").iterdir()).name

    async def viewed_while_nothing_is_published() -> str:
        """The lock of whoever publishes is held, so that what is signed meanwhile reaches no store."""
        engine = create_async_engine(losing.stack.postgres.dsn("quancheng_owner"), isolation_level="AUTOCOMMIT")
        async with engine.connect() as db:
            await db.execute(text("SELECT pg_advisory_lock(hashtext('quancheng-log-publish'))"))
            with losing.sign_in("li") as client:
                asked = client.post(f"/v1/recordings/{recording}/viewings", json={"purpose": "spot-check"})
            assert asked.status_code == 201, asked.text
            await asyncio.to_thread(stop_vault, losing)
        await engine.dispose()
        return str(asked.json()["id"])

    viewing = asyncio.run(viewed_while_nothing_is_published())
    sql = losing.stack.postgres.run_sql
    lost = int(sql(f"SELECT log_index FROM api.outbox WHERE act = '{viewing}'"))
    lose(losing)
    rebuild(losing)
    start_vault(losing)
    logged = f"SELECT count(*) FROM vault.log_entries WHERE act = '{viewing}'"
    eventually(lambda: sql(logged).strip() == "1", "the viewing is told again", timeout=90)
    index = f"SELECT log_index FROM api.outbox WHERE act = '{viewing}'"
    eventually(lambda: sql(index).strip(), "its index is on record again", timeout=60)
    assert int(sql("SELECT size FROM vault.rebuilds ORDER BY at DESC LIMIT 1")) <= lost
    assert_log_is_whole(losing)
