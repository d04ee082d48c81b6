"""The api's own queue: acts that were not told are told by its worker, and what is dead is seen and retried."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from deploy.local.processes import ROOT
from tests.rooms.houses import Houses
from tests.system import System, running

USE = {"purpose": "training"}


@pytest.fixture(scope="module")
def apart() -> Iterator[System]:
    """A system whose api leaves the jobs to a worker of its own."""
    with running(None, settings={"QUANCHENG_API_WORK": "false"}) as made:
        yield made


@pytest.fixture(scope="module")
async def house(apart: System) -> AsyncIterator[Houses]:
    made = await Houses.build(apart)
    yield made
    await made.leave()


@contextmanager
def worker(system: System, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = system.stack.api_environment()
    with (folder / "worker.log").open("ab") as log:
        argv = [sys.executable, "-m", "services.api", "work"]
        process = subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def sql(system: System, query: str) -> str:
    return system.stack.postgres.run_sql(query).strip()


def index_of(system: System, act: UUID | str) -> str:
    return sql(system, f"SELECT log_index FROM api.outbox WHERE act = '{act}'")


async def eventually(look: object, seconds: float = 60) -> None:
    assert callable(look)
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(look):
            await asyncio.sleep(0.2)


async def test_an_act_whose_api_died_before_the_vault_heard_of_it_is_told_by_the_worker(
    house: Houses, tmp_path: Path
) -> None:
    system, client = house.system, house.here.clients["supervisor"]
    vault, api = system.stack.vault, system.stack.api
    assert vault and api
    vault.stop()
    try:
        refused = await client.post(f"/v1/recordings/{house.here.closed['first']}/viewings", json=USE)
        assert (refused.status_code, refused.json()["slug"]) == (503, "vault-unavailable")
        api.kill()
        act = sql(system, "SELECT id FROM api.viewings ORDER BY at DESC LIMIT 1")
        # A worker that finds no vault waits for it, and so does one that comes after it was killed.
        with worker(system, tmp_path) as first:
            await asyncio.sleep(8)
            assert first.poll() is None
            first.kill()
        assert index_of(system, act) == ""
    finally:
        vault.start()
    await asyncio.to_thread(api.wait_ready)
    with worker(system, tmp_path), worker(system, tmp_path):
        await eventually(lambda: index_of(system, act))
        await eventually(lambda: sql(system, "SELECT count(*) FROM api.pgqueuer") == "0")
    assert sql(system, f"SELECT count(*) FROM vault.log_entries WHERE act = '{act}'") == "1"


async def test_a_job_goes_with_its_act_and_an_act_that_was_told_at_once_leaves_none(
    house: Houses, tmp_path: Path
) -> None:
    system, client = house.system, house.here.clients["supervisor"]
    made = await client.post(f"/v1/recordings/{house.here.closed['first']}/viewings", json=USE)
    assert made.status_code == 201
    act = sql(system, "SELECT id FROM api.viewings ORDER BY at DESC LIMIT 1")
    assert index_of(system, act)
    assert sql(system, f"SELECT count(*) FROM api.pgqueuer WHERE dedupe_key = 'tell-act/{act}'") == "1"
    with worker(system, tmp_path):
        await eventually(lambda: sql(system, "SELECT count(*) FROM api.pgqueuer") == "0")


async def test_an_act_that_the_vault_finds_fault_with_is_a_dead_job_that_administrators_see_and_retry(
    house: Houses, tmp_path: Path
) -> None:
    system, clients = house.system, house.here.clients
    act, administrator = uuid7(), clients["administrator"]
    recording = house.here.closed["first"]
    sql(
        system,
        f"""
        INSERT INTO api.outbox (act, kind, fields, at) VALUES ('{act}', 'viewing', '{{"nothing": 1}}', now());
        INSERT INTO api.pgqueuer (priority, entrypoint, payload, status, dedupe_key)
        VALUES (0, 'tell-act', convert_to('{act}', 'UTF8'), 'queued', 'tell-act/{act}');
        """,
    )
    with worker(system, tmp_path):
        await eventually(lambda: sql(system, "SELECT count(*) FROM api.pgqueuer WHERE status = 'failed'") == "1")
        assert f"alarm kind=job-dead subject=tell-act/{act} statement-unfit" in (tmp_path / "worker.log").read_text()
        (dead,) = (await administrator.get("/v1/jobs/dead")).json()["items"]
        assert (dead["kind"], dead["subject"]) == ("tell-act", str(act))
        page = await administrator.get("/recordings", headers={"accept": "text/html"})
        assert "后台任务多次失败" in page.text
        for other in ("first", "supervisor"):
            assert_problem(await clients[other].get("/v1/jobs/dead"), 403, "not-permitted")
            assert_problem(await clients[other].post(f"/v1/jobs/{dead['id']}/retry"), 403, "not-permitted")
            assert "后台任务" not in (await clients[other].get("/recordings", headers={"accept": "text/html"})).text
        forged = await administrator.post(f"/v1/jobs/{dead['id']}/retry", headers={"x-csrf-token": "x"})
        assert_problem(forged, 403, "request-forged")

        fields = (
            f'{{"recording": "{recording}", "person": "{uuid7()}", "purpose": "training", '
            '"until": "2026-11-23T18:00:00.000Z"}'
        )
        sql(system, f"UPDATE api.outbox SET fields = '{fields}' WHERE act = '{act}'")
        assert (await administrator.post(f"/v1/jobs/{dead['id']}/retry")).status_code == 204
        await eventually(lambda: index_of(system, act))
    assert (await administrator.get("/v1/jobs/dead")).json() == {"items": [], "next_cursor": None}
    assert_problem(await administrator.post(f"/v1/jobs/{dead['id']}/retry"), 404, "no-such-job")
    page = await administrator.get("/recordings", headers={"accept": "text/html"})
    assert "后台任务多次失败" not in page.text


def assert_problem(answer: httpx.Response, status: int, slug: str) -> None:
    assert (answer.status_code, answer.json()["slug"]) == (status, slug), answer.text
    assert re.search(r"[\u4e00-\u9fff].*。$", answer.json()["title"])
