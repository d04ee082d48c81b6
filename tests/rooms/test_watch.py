"""While it runs, a vault watches store and clocks and tells what is wrong: alarms, and what becomes of them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from services.vault import sampling
from services.vault.app import create_app
from services.vault.contract.channel import CHANNEL_SERVICE, RequestSigner
from services.vault.errors import StoreUnavailable
from services.vault.sampling import Sampler
from services.vault.settings import Settings
from services.vault.stores.s3 import S3Store
from services.vault.watch import CLOCK, CONFIGURATION, UNAVAILABLE, Watch
from tests.rooms.liar import Answer, Gateway, Request, gateway, truthful
from tests.rooms.sealed import Room, ask, open_recording, s3, seal, settings_of
from tests.system import System

__all__ = ["s3"]


async def test_a_store_that_is_away_tells_nothing_of_an_object(s3: Room) -> None:
    (key,) = await seal(s3.client, await open_recording(s3.client), [b"away"])

    def away(gate: Gateway, request: Request) -> Answer:
        return Answer(503)

    minio = s3.system.stack.minio
    assert minio
    with gateway(minio, away) as gate:
        store = S3Store(settings_of(s3.system, s3_endpoint=gate.endpoint))
        with pytest.raises(StoreUnavailable):
            await Sampler(s3.engine, store, s3.alarms).examine(await s3.record(key), whole=False)
        watch = Watch(store, s3.alarms)
        await watch.look()
        assert "没有应答" in str(await s3.told(UNAVAILABLE, watch._here))
        gate.lie = truthful
        await watch.look()
        assert await s3.told(UNAVAILABLE, watch._here) is None
        await store.stop()
    assert await s3.told(sampling.DIFFERS, key) is None


async def test_an_alarm_is_one_row_while_it_stands_and_stays_on_record(s3: Room) -> None:
    subject = secrets.token_hex(8)
    await asyncio.gather(*(s3.alarms.sound("staged", subject, f"第 {n} 次") for n in range(8)))
    assert await s3.told("staged", subject)
    await s3.alarms.clear("staged", subject)
    await s3.alarms.clear("staged", subject)
    assert await s3.told("staged", subject) is None
    await s3.alarms.sound("staged", subject, "又一次")
    rows = text(
        "SELECT detail, cleared_at IS NULL AS stands FROM vault.alarms WHERE subject = :subject ORDER BY place"
    )
    async with s3.engine.begin() as db:
        found = (await db.execute(rows, {"subject": subject})).all()
        assert [row.stands for row in found] == [False, True]
        with pytest.raises(ProgrammingError, match="permission denied"):
            await db.execute(text("DELETE FROM vault.alarms"))
    await s3.alarms.clear("staged", subject)


async def test_the_standing_alarms_are_told_to_the_service(s3: Room) -> None:
    subjects = [secrets.token_hex(8) for _ in range(3)]
    for subject in subjects:
        await s3.alarms.sound("staged", subject, "有一处不符")
    told = await s3.client.alarms(limit=2)
    assert [alarm.subject for alarm in told.alarms] == subjects[:0:-1]
    assert told.more
    for subject in subjects:
        await s3.alarms.clear("staged", subject)
    assert not [alarm for alarm in (await s3.client.alarms(200)).alarms if alarm.subject in subjects]


@asynccontextmanager
async def _vault(settings: Settings, system: System) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    app = create_app(settings)
    signer = RequestSigner(system.stack._service_key(), CHANNEL_SERVICE)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://vault.test", auth=signer) as client:
            yield app, client


def _clock(seconds: int) -> Callable[[Gateway, Request], Answer]:
    def lie(gate: Gateway, request: Request) -> Answer:
        answer, now = gate.forward(request), datetime.now(UTC) + timedelta(seconds=seconds)
        return Answer(
            answer.status, answer.headers | {"date": now.strftime("%a, %d %b %Y %H:%M:%S GMT")}, answer.body
        )

    return lie


async def test_while_clocks_differ_no_ticket_is_given_and_what_was_put_is_still_committed(s3: Room) -> None:
    minio = s3.system.stack.minio
    assert minio
    recording = await open_recording(s3.client)
    await seal(s3.client, recording, [b"put before the drift"], commit=False)
    put, more = ask(0, b"put before the drift"), ask(1, b"more")
    commit = {"sequence": put.sequence, "sha256": put.sha256}
    path = f"/v1/recordings/{recording}/exchange"

    def body(*, asks: bool, commits: bool) -> dict[str, Any]:
        told = json.loads(more.model_dump_json())
        return {"asks": [told] if asks else [], "commits": [commit] if commits else []}

    with gateway(minio) as gate:
        settings = settings_of(s3.system, s3_endpoint=gate.endpoint)
        async with _vault(settings, s3.system) as (app, client):
            watch: Watch = app.state.vault.watch
            for seconds in (8, -8):
                gate.lie = _clock(seconds)
                await watch.look()
                refused = await client.post(path, json=body(asks=True, commits=False))
                assert (refused.status_code, refused.json()["slug"]) == (503, "clock-drift")
                both = (await client.post(path, json=body(asks=True, commits=True))).json()
                assert [item["slug"] for item in both["problems"]] == ["clock-drift"]
                assert [item["sequence"] for item in both["sealed"]] == [0]
                told = (await client.get("/v1/alarms")).json()["alarms"]
                assert ("快" if seconds > 0 else "慢") in next(a["detail"] for a in told if a["kind"] == CLOCK)
            gate.lie = truthful
            await watch.look()
            answer = (await client.post(path, json=body(asks=True, commits=False))).json()
            assert [item["sequence"] for item in answer["tickets"]] == [1]
            assert CLOCK not in {a["kind"] for a in (await client.get("/v1/alarms")).json()["alarms"]}


async def test_a_bucket_that_loses_its_lock_configuration_is_an_alarm(s3: Room) -> None:
    def lost(gate: Gateway, request: Request) -> Answer:
        return Answer(404) if request.target.endswith("?object-lock=") else gate.forward(request)

    minio = s3.system.stack.minio
    assert minio
    with gateway(minio, lost) as gate:
        store = S3Store(settings_of(s3.system, s3_endpoint=gate.endpoint))
        watch = Watch(store, s3.alarms)
        await watch.look()
        assert "未启用对象锁定" in str(await s3.told(CONFIGURATION, "bucket-evidence-lock"))
        gate.lie = truthful
        await watch.look()
        assert await s3.told(CONFIGURATION, "bucket-evidence-lock") is None
        await store.stop()
