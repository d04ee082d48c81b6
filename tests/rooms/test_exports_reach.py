"""Who may export what, look at it and fetch it, at the api's own door."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from uuid_utils.compat import uuid7

from tests.rooms.houses import Houses
from tests.rooms.people import api_database
from tests.system import System

USE = {"purpose": "spot-check"}


async def ask(client: httpx.AsyncClient, recordings: Sequence[object], **more: Any) -> httpx.Response:
    return await client.post("/v1/exports", json=USE | {"recordings": [str(one) for one in recordings]} | more)


async def ready(client: httpx.AsyncClient, export: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (state := (await client.get(f"/v1/exports/{export}")).json())["state"] != "ready":
            assert state["state"] in ("waiting", "preparing"), state
            await asyncio.sleep(0.1)
    return dict(state)


def acts(system: System) -> int:
    return int(system.stack.postgres.run_sql("SELECT count(*) FROM api.outbox WHERE kind = 'export'"))


async def test_a_supervisor_exports_several_closed_or_not_at_once(houses: Houses) -> None:
    client = houses.here.clients["supervisor"]
    answer = await ask(client, [*houses.here.closed.values(), houses.here.open["first"]])
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert answer.headers["location"] == f"/v1/exports/{told['id']}"
    assert told["download"] is None
    state = await ready(client, told["id"])
    assert state["bytes_done"] == state["bytes_total"] > 0
    whole = await client.get(state["download"])
    assert (whole.status_code, len(whole.content)) == (200, state["size"])
    assert f"quancheng-{told['id']}.tar" in whole.headers["content-disposition"]
    assert whole.headers["cache-control"] == "private, no-store"
    part = await client.get(state["download"], headers={"range": "bytes=100-199", "if-range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{state['size']}"
    beyond = await client.get(state["download"], headers={"range": f"bytes={state['size']}-"})
    assert (beyond.status_code, beyond.json()["slug"]) == (416, "range-unsatisfiable")
    assert beyond.headers["content-range"] == f"bytes */{state['size']}"


async def test_what_is_refused_is_not_logged(houses: Houses) -> None:
    own, other = houses.here.closed["first"], houses.there.closed["first"]
    officer, supervisor = houses.here.clients["first"], houses.here.clients["supervisor"]
    before = acts(houses.system)
    for client, body, status, slug in (
        (officer, {"recordings": [str(own)]}, 403, "not-permitted"),
        (officer, {"recordings": [str(other)]}, 404, "no-such-recording"),
        (supervisor, {"recordings": [str(own), str(other)]}, 404, "no-such-recording"),
        (supervisor, {"recordings": [str(own), str(uuid7())]}, 404, "no-such-recording"),
        (houses.here.clients["administrator"], {"recordings": [str(own)]}, 404, "no-such-recording"),
        (supervisor, {"recordings": []}, 422, "invalid"),
        (supervisor, {"recordings": [str(uuid7()) for _ in range(1001)]}, 422, "invalid"),
        (supervisor, {"recordings": [str(own)], "series": [str(own)]}, 422, "invalid"),
        (supervisor, {"recordings": [str(own)], "purpose": "other"}, 422, "invalid"),
        (supervisor, {"recordings": [str(own)], "copies": "perhaps"}, 422, "invalid"),
    ):
        answer = await client.post("/v1/exports", json=USE | body)
        assert (answer.status_code, answer.json()["slug"]) == (status, slug), answer.text
    assert acts(houses.system) == before


async def test_an_export_is_the_persons_own(houses: Houses) -> None:
    client = houses.here.clients["supervisor"]
    export = (await ask(client, [houses.here.closed["first"]])).json()["id"]
    address = (await ready(client, export))["download"]
    for house, person in (("here", "first"), ("here", "administrator"), ("there", "supervisor")):
        stranger: httpx.AsyncClient = getattr(houses, house).clients[person]
        for path in (address, f"/v1/exports/{export}"):
            refused = await stranger.get(path)
            assert (refused.status_code, refused.json()["slug"]) == (404, "no-such-export")
        listed = await stranger.get("/v1/exports")
        assert listed.status_code == 403 or not listed.json()["items"]
    assert (await client.get(address)).status_code == 200
    async with httpx.AsyncClient(base_url=houses.system.stack.api_url, trust_env=False) as nobody:
        assert (await nobody.get(address)).status_code == 401


async def test_who_loses_sight_of_a_recording_loses_its_exports(houses: Houses) -> None:
    client = houses.here.clients["supervisor"]
    lost = await houses.here.record("first", [b"init", b"lost"], close=True)
    export = (await ask(client, [houses.here.closed["first"], lost])).json()["id"]
    address = (await ready(client, export))["download"]
    postgres = houses.system.stack.postgres
    postgres.run_sql(f"UPDATE api.recordings SET unit_id = '{houses.there.unit}' WHERE id = '{lost}'")
    try:
        for path in (address, f"/v1/exports/{export}"):
            assert (await client.get(path)).status_code == 404
        assert export not in (await client.get("/v1/exports")).text
    finally:
        postgres.run_sql(f"UPDATE api.recordings SET unit_id = '{houses.here.unit}' WHERE id = '{lost}'")
    assert (await client.get(address)).status_code == 200


async def test_a_persons_list_holds_each_export_once_newest_first(houses: Houses) -> None:
    client, recording = houses.here.clients["supervisor"], houses.here.closed["second"]
    mine = []
    for _ in range(3):
        export = (await ask(client, [recording])).json()["id"]
        await ready(client, export)
        mine.append(export)
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None and len(found) < 200:
        query = {"limit": "2", "recording": str(recording)} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/exports", params=query)).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert found == sorted(set(found), reverse=True)
    assert found[:3] == mine[::-1]
    elsewhere = await client.get("/v1/exports", params={"recording": str(houses.there.closed["first"])})
    assert elsewhere.json()["items"] == []


async def test_what_was_logged_and_never_begun_is_begun_at_the_next_look(houses: Houses) -> None:
    """As after a crash between the log and the job."""
    client = houses.here.clients["supervisor"]
    export = (await ask(client, [houses.here.closed["first"]])).json()["id"]
    await ready(client, export)
    sql = houses.system.stack.postgres.run_sql
    for table in ("export_pieces", "export_files", "export_items", "exports"):
        sql(f"DELETE FROM vault.{table} WHERE act = '{export}'")
    async with api_database(houses.system.stack):
        state = await client.get(f"/v1/exports/{export}")
    assert state.json()["state"] in ("waiting", "preparing")
    assert (await ready(client, export))["download"]


async def test_too_many_at_once_are_refused_with_the_time_to_come_again(houses: Houses) -> None:
    client, person = houses.here.clients["supervisor"], houses.here.people["supervisor"]
    acts_ = [uuid7() for _ in range(3)]
    sql = houses.system.stack.postgres.run_sql
    for act in acts_:
        sql(
            "INSERT INTO vault.exports (act, person, recordings, series, copies, moment, state, requested_at,"
            f" expires_at) VALUES ('{act}', '{person}', '{{}}', '{{}}', false, now(), 'waiting', now(),"
            " now() + interval '1 day')"
        )
    try:
        refused = await ask(client, [houses.here.closed["first"]])
        assert (refused.status_code, refused.json()["slug"]) == (429, "too-many-exports")
        assert int(refused.headers["retry-after"]) > 0
    finally:
        for act in acts_:
            sql(f"DELETE FROM vault.exports WHERE act = '{act}'")


@pytest.mark.parametrize("path", ["/v1/exports/{}", "/v1/exports/{}/bag"])
async def test_an_export_that_never_was_is_not_there(houses: Houses, path: str) -> None:
    answer = await houses.here.clients["supervisor"].get(path.format(uuid7()))
    assert (answer.status_code, answer.json()["slug"]) == (404, "no-such-export")
