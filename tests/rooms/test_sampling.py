"""While running, the store is looked at again: what was altered behind the vault's back becomes an alarm."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local import folders
from services.terminal.closing import root_of, signed_closing
from services.vault import sampling
from services.vault.alarms import Alarms
from services.vault.contract import wire
from services.vault.sampling import KEPT, MANIFESTS, SEGMENTS, Sampler, Sealed
from services.vault.stores.local import LocalStore
from services.vault.stores.s3 import S3Store
from tests.rooms.liar import Answer, Gateway, Request, gateway
from tests.rooms.sealed import Room, local, open_recording, room_of, s3, seal, settings_of
from tests.system import running

__all__ = ["local", "s3"]


# --- what is drawn ---


async def test_every_sealed_segment_is_drawn_and_nothing_else(s3: Room) -> None:
    few, many = await open_recording(s3.client), await open_recording(s3.client)
    keys = await seal(s3.client, few, [secrets.token_bytes(100)])
    keys += await seal(s3.client, many, [secrets.token_bytes(100) for _ in range(30)])
    (asked,) = await seal(s3.client, await open_recording(s3.client), [b"put and never committed"], commit=False)
    drawn: dict[str, int] = {}
    for _ in range(20_000):
        found = await s3.sampler.draw(SEGMENTS)
        assert found is not None
        drawn[found.key] = drawn.get(found.key, 0) + 1
        if set(keys) <= set(drawn) and sum(drawn.values()) >= 300:
            break
    assert set(keys) <= set(drawn)
    assert asked not in drawn


async def test_a_manifest_is_drawn_and_examined_too(s3: Room) -> None:
    key, data = Ed25519PrivateKey.generate(), b"the only segment"
    recording = await open_recording(s3.client, key)
    await seal(s3.client, recording, [data])
    leaf = (0, hashlib.sha256(data).hexdigest(), len(data))
    now = wire.rfc3339(datetime.now(UTC))
    closing = {"recording": str(recording), "count": 1, "root": root_of([leaf]), "missing": []}
    closing |= {"started_at": now, "ended_at": now, "interrupted": False}
    await s3.client.close(recording, wire.CloseRecording(closing=signed_closing(closing, key)))
    found: Sealed | None = None
    for _ in range(2000):
        found = await s3.sampler.draw(MANIFESTS)
        if found is not None and str(recording) in found.key:
            break
    assert found is not None and found.key == f"recordings/{recording}/manifest-0000"
    assert await s3.sampler.examine(found, whole=True) == ""
    altered = replace(found, sha256="0" * 64)
    assert "校验值" in await s3.sampler.examine(altered, whole=False)
    # The alarm leads back to the object.
    while await s3.told(sampling.DIFFERS, found.key):
        await s3.sampler.look()


async def test_the_logs_own_files_are_drawn_and_a_difference_leads_back_to_them(s3: Room, local: Room) -> None:
    for room in (s3, local):
        await open_recording(room.client)  # an enrolment: a statement, which is sealed within a second
        found: Sealed | None = None
        async with asyncio.timeout(30):
            while found is None or not found.key.startswith("statements/"):
                found = await room.sampler.draw(KEPT)
                await asyncio.sleep(0.01)
        assert found.sha256 and found.size and found.retain_until
        assert await room.sampler.examine(found, whole=True) == ""
        for altered, why in (
            (replace(found, sha256="0" * 64), "校验值"),
            (replace(found, size=found.size + 1), "长度"),
            (replace(found, version=str(uuid4())), "已没有版本" if room is s3 else "另一版本"),
        ):
            assert why in await room.sampler.examine(altered, whole=False)
        while await room.told(sampling.DIFFERS, found.key):
            await room.sampler.look()


async def test_a_kept_file_that_is_gone_from_the_disk_is_found_out_until_it_is_back(local: Room) -> None:
    await open_recording(local.client)
    settings = settings_of(local.system)
    assert settings.local_root
    async with asyncio.timeout(30):
        while (found := await local.sampler.draw(KEPT)) is None:
            await asyncio.sleep(0.1)
    path = settings.local_root / "evidence" / found.key
    folders.release(str(path))
    away = path.rename(path.with_suffix(".away"))
    assert "已没有版本" in await local.sampler.examine(found, whole=False)
    assert await local.told(sampling.DIFFERS, found.key)
    away.rename(path)
    assert await local.sampler.examine(found, whole=True) == ""
    assert await local.told(sampling.DIFFERS, found.key) is None


async def test_one_page_is_read_however_long_the_history(s3: Room) -> None:
    """What a terminal chooses, its recording's id, has no part in what is drawn."""
    async with s3.engine.connect() as db:
        part = await db.scalar(text("SELECT CAST('vault.segments' AS regclass)::oid"))
        bounds = {"part": part, "first": (0, 0), "next": (1, 0)}
        await db.execute(text("SET enable_seqscan = on"))
        plan = await db.execute(text(f"EXPLAIN (FORMAT JSON) {SEGMENTS.on_page.text}"), bounds)
        told = plan.scalar()
    assert "Tid Range Scan" in (told if isinstance(told, str) else json.dumps(told))


async def test_with_nothing_sealed_there_is_nothing_to_draw(postgres_with_vault: AsyncEngine, s3: Room) -> None:
    sampler = Sampler(postgres_with_vault, s3.store, Alarms(postgres_with_vault))
    assert await sampler.draw(SEGMENTS) is await sampler.draw(MANIFESTS) is await sampler.look() is None


@pytest.fixture
async def postgres_with_vault(postgres: Any) -> AsyncIterator[AsyncEngine]:
    """An empty database with the vault's schema, as the vault's own role."""
    from sqlalchemy.ext.asyncio import create_async_engine

    from migrations.run import upgrade

    await upgrade(postgres.dsn("quancheng_owner"), "vault")
    engine = create_async_engine(postgres.dsn("quancheng_vault"))
    yield engine
    await engine.dispose()


# --- what differs ---


async def test_what_is_as_it_was_raises_no_alarm(s3: Room, local: Room) -> None:
    for room in (s3, local):
        (key,) = await seal(room.client, await open_recording(room.client), [secrets.token_bytes(300_000)])
        assert await room.sampler.examine(await room.record(key), whole=True) == ""
        assert await room.told(sampling.DIFFERS, key) is None


async def test_an_object_removed_from_the_stores_disk_is_found_out_and_cleared_when_it_is_back(
    s3: Room, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (key,) = await seal(s3.client, await open_recording(s3.client), [secrets.token_bytes(300_000)])
    sealed = await s3.record(key)
    minio = s3.system.stack.minio
    assert minio
    lies = minio.folder / settings_of(s3.system).s3_evidence_bucket / key
    shutil.move(lies, tmp_path / "away")
    with caplog.at_level(logging.ERROR):
        assert "已没有版本" in await s3.sampler.examine(sealed, whole=False)
        assert "已没有版本" in await s3.sampler.examine(sealed, whole=True)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.split()[:3] for line in lines] == [["alarm", "kind=object-differs", f"subject={key}"]] * 2
    assert "已没有版本" in str(await s3.told(sampling.DIFFERS, key))
    shutil.move(tmp_path / "away", lies)
    assert await s3.sampler.examine(sealed, whole=True) == ""
    assert await s3.told(sampling.DIFFERS, key) is None


async def test_bytes_altered_on_the_stores_disk_are_found_by_a_full_read(s3: Room) -> None:
    (key,) = await seal(s3.client, await open_recording(s3.client), [secrets.token_bytes(300_000)])
    minio = s3.system.stack.minio
    assert minio
    (part,) = (minio.folder / settings_of(s3.system).s3_evidence_bucket / key).rglob("part.1")
    with part.open("r+b") as file:
        file.seek(150_000)
        was = file.read(1)
        file.seek(150_000)
        file.write(bytes([was[0] ^ 1]))
    sealed = await s3.record(key)
    assert await s3.sampler.examine(sealed, whole=False) == ""
    assert await s3.sampler.examine(sealed, whole=True)
    assert await s3.told(sampling.DIFFERS, key)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"x-amz-object-lock-mode": "GOVERNANCE"}, "锁定方式"),
        ({"x-amz-object-lock-mode": ""}, "锁定方式"),
        ({"x-amz-object-lock-retain-until-date": "2026-12-01T00:00:00Z"}, "锁定期限"),
        ({"x-amz-object-lock-retain-until-date": ""}, "锁定期限"),
        ({"x-amz-checksum-sha256": "A" * 43 + "="}, "校验值"),
        ({"x-amz-checksum-sha256": "not base64"}, "校验值"),
        ({"content-length": "7"}, "长度"),
        ({"x-amz-version-id": "00000000-0000-4000-8000-000000000000"}, "另一版本"),
    ],
    ids=str,
)
async def test_each_difference_is_named(s3: Room, changed: dict[str, str], word: str) -> None:
    def lie(gate: Gateway, request: Request) -> Answer:
        answer = gate.forward(request)
        return Answer(answer.status, answer.headers | (changed if request.method == "HEAD" else {}), answer.body)

    (key,) = await seal(s3.client, await open_recording(s3.client), [secrets.token_bytes(1000)])
    minio = s3.system.stack.minio
    assert minio
    with gateway(minio, lie) as gate:
        store = S3Store(settings_of(s3.system, s3_endpoint=gate.endpoint))
        seen = await Sampler(s3.engine, store, s3.alarms).examine(await s3.record(key), whole=False)
        await store.stop()
    assert word in seen
    assert seen == await s3.told(sampling.DIFFERS, key)
    assert await s3.sampler.examine(await s3.record(key), whole=False) == ""


async def test_a_lock_renewed_further_ahead_is_no_difference(s3: Room) -> None:
    (key,) = await seal(s3.client, await open_recording(s3.client), [b"renewed"])
    sealed = await s3.record(key)
    assert sealed.retain_until
    earlier = replace(sealed, retain_until=sealed.retain_until - timedelta(days=30))
    assert await s3.sampler.examine(earlier, whole=True) == ""


@pytest.mark.parametrize("fault", ["altered", "gone"])
async def test_a_file_altered_in_the_local_folder_is_found_out(local: Room, fault: str) -> None:
    (key,) = await seal(local.client, await open_recording(local.client), [secrets.token_bytes(1000)])
    path = Path(str(settings_of(local.system).local_root)) / "evidence" / key
    original = path.read_bytes()
    _unlock(path)
    if fault == "altered":
        path.chmod(0o644)
        path.write_bytes(b"x" * 1000)
    else:
        path.unlink()
    assert await local.sampler.examine(await local.record(key), whole=False)
    assert await local.told(sampling.DIFFERS, key)
    if fault == "altered":
        _unlock(path)  # whoever looks at a file of the store makes it immutable again
    path.write_bytes(original)
    assert await local.sampler.examine(await local.record(key), whole=True) == ""
    assert await local.told(sampling.DIFFERS, key) is None


def _unlock(path: Path) -> None:
    """Take the immutable flag away, as the machine's owner can: a test may use the same means."""

    folders.release(os.fspath(path))


async def test_a_running_vault_samples_by_itself_and_looks_again_at_what_was_an_alarm() -> None:
    with running(None, settings={"QUANCHENG_VAULT_SAMPLE_PER_MINUTE": "600"}) as system:
        settings = settings_of(system)
        assert settings.local_root and settings.local_public_url
        store = LocalStore(settings.local_root, settings.local_public_url, b"x" * 32)
        async with room_of(system, store) as room:
            (key,) = await seal(room.client, await open_recording(room.client), [b"falsely accused"])
            await room.alarms.sound(sampling.DIFFERS, key, "一次误报")
            for _ in range(200):
                if await room.told(sampling.DIFFERS, key) is None:
                    return
                await asyncio.sleep(0.1)
    pytest.fail("the alarm was not looked at again")
