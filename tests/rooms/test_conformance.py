"""A store is attacked before it is believed: what gives way is found out and named, and the vault stays shut."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from minio.commonconfig import COMPLIANCE, ENABLED, GOVERNANCE, Filter
from minio.lifecycleconfig import Expiration, LifecycleConfig, NoncurrentVersionExpiration, Rule
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.retention import Retention

from deploy.local.minio import Minio
from deploy.local.processes import ROOT
from services.vault.errors import StoreUnfit
from services.vault.stores import conformance
from services.vault.stores.findings import Finding
from services.vault.stores.local import LocalStore
from tests.rooms.fitness import House, plain, versioned
from tests.rooms.liar import gateway
from tests.rooms.test_lying_stores import says_deleted
from tests.system import System, free_ports


@pytest.fixture(scope="session")
def minio(minio_system: System) -> Minio:
    assert minio_system.stack.minio
    return minio_system.stack.minio


@pytest.fixture(scope="module")
def house(minio: Minio) -> House:
    return House(minio).set_up()


# --- a store that is fit ---


async def test_a_fit_store_withstands_everything(house: House) -> None:
    found = await house.examine()
    assert [finding.line() for finding in found.values() if not finding.held] == []
    assert {"delete", "bypass", "shorten", "downgrade", "versioning-off", "object-lock-off"} < set(found)
    assert {"other-bytes", "other-length", "without-mode", "write-once", "overwrite", "put-copy"} < set(found)


async def test_the_probe_bucket_does_not_grow_by_starts(house: House) -> None:
    for _ in range(3):
        assert not await house.broken()
    assert list(house.versions("probe").values()) == [1]
    assert house.versions("evidence") == house.versions("log") == {}


async def test_any_number_of_vaults_may_start_at_once(house: House) -> None:
    assert await asyncio.gather(*(house.broken() for _ in range(4))) == [set()] * 4
    assert list(house.versions("probe").values()) == [1]


async def test_what_past_days_left_is_cleared_away_once_its_lock_has_lapsed(minio: Minio) -> None:
    import io

    house = House(minio).set_up()
    until = datetime.now(UTC) + timedelta(seconds=2)
    for key in ("lock/2020-01-01", "lock/2020-01-02"):
        later = until if key.endswith("01") else until + timedelta(days=1)
        house.admin.put_object(
            house.bucket("probe"), key, io.BytesIO(b"old"), 3, retention=Retention(COMPLIANCE, later)
        )
    await asyncio.sleep(3)
    assert not await house.broken()
    assert sorted(house.versions("probe"))[:1] == ["lock/2020-01-02"]
    assert len(house.versions("probe")) == 2


async def test_the_suite_costs_a_fraction_of_a_second(house: House) -> None:
    """Of processor time, which a busy machine does not stretch as it does the clock's."""
    took = []
    for _ in range(3):
        began = time.process_time()
        assert not await house.broken()
        took.append(time.process_time() - began)
    assert min(took) < 0.7, took


# --- buckets that are not as they should be ---


def _governed(house: House, kind: str) -> None:
    house.admin.make_bucket(house.bucket(kind), object_lock=True)
    house.admin.set_object_lock_config(house.bucket(kind), ObjectLockConfig(GOVERNANCE, 1, DAYS))


@pytest.mark.parametrize("kind", ["evidence", "probe"])
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (plain, "未启用版本控制"),
        (versioned, "未启用对象锁定"),
        (_governed, "治理锁（GOVERNANCE）"),
        (None, "不存在"),
    ],
)
async def test_a_bucket_that_cannot_hold_evidence_is_named(
    minio: Minio, kind: str, make: Callable[[House, str], None] | None, sentence: str
) -> None:
    house = House(minio)
    if make:
        make(house, kind)
    house.set_up()
    if make is None:
        house.admin.remove_bucket(house.bucket(kind))
    store = house.store()
    with pytest.raises(StoreUnfit) as refusal:
        await conformance.require(store)
    await store.stop()
    assert sentence in str(refusal.value)
    assert house.bucket(kind) in str(refusal.value)
    assert "拒绝启动" in str(refusal.value)


# --- identities that may do more than is theirs ---


def _on(bucket: str, *actions: str) -> dict[str, Any]:
    where = f"arn:aws:s3:::{bucket}"
    return {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": [where, f"{where}/*"]}


PUT = ("PutObject", "PutObjectRetention")
KEEP = (
    *("GetObject", "GetObjectVersion", "GetObjectRetention", "PutObjectRetention", "ListBucket"),
    *("ListBucketVersions", "GetBucketVersioning", "GetBucketObjectLockConfiguration"),
    "GetLifecycleConfiguration",
)
TOO_MUCH = [
    ("put", "evidence", (*PUT, "GetObject"), {"put-get", "put-head", "put-copy"}),
    ("put", "evidence", (*PUT, "ListBucket"), {"put-list"}),
    ("put", "evidence", (*PUT, "DeleteObject"), {"put-delete", "put-bypass", "put-delete-many"}),
    ("put", "evidence", (*PUT, "PutObjectLegalHold"), {"put-hold", "put-hold-header"}),
    ("put", "evidence", (*PUT, "PutBucketVersioning"), {"put-versioning"}),
    ("put", "evidence", (*PUT, "PutBucketPolicy"), {"put-policy"}),
    ("put", "evidence", (*PUT, "PutLifecycleConfiguration"), {"put-lifecycle"}),
    ("put", "evidence", (*PUT, "PutBucketTagging"), {"put-tagging"}),
    ("put", "log", PUT, {"put-log"}),
    ("put", "probe", PUT, {"put-probe"}),
    ("put", "evidence", ("PutObjectRetention",), {"put-puts"}),
    ("keep", "evidence", (*KEEP, "PutObject"), {"keep-put"}),
    ("keep", "evidence", (*KEEP, "DeleteObject"), {"keep-delete", "keep-bypass", "keep-delete-many"}),
    ("keep", "evidence", (*KEEP, "PutBucketVersioning"), {"keep-versioning"}),
    ("keep", "evidence", (*KEEP, "PutBucketObjectLockConfiguration"), {"keep-object-lock"}),
    ("keep", "evidence", (*KEEP, "PutBucketPolicy"), {"keep-policy"}),
    ("keep", "evidence", (*KEEP, "PutLifecycleConfiguration"), {"keep-lifecycle"}),
    ("keep", "evidence", (*KEEP, "PutBucketTagging"), {"keep-tagging"}),
    ("keep", "log", ("DeleteObject",), {"keep-log-remove"}),
    ("keep", "probe", ("PutObject", "PutObjectRetention"), {"keep-probe"}),
    ("probe", "evidence", ("GetObject",), {"probe-get"}),
    ("probe", "evidence", ("*",), {"probe-get", "probe-put", "probe-delete", "probe-bypass", "probe-versioning"}),
]


@pytest.mark.parametrize(("who", "bucket", "actions", "expected"), TOO_MUCH)
async def test_an_identity_that_may_do_more_or_less_than_is_its_own_is_found_out(
    minio: Minio, who: str, bucket: str, actions: tuple[str, ...], expected: set[str]
) -> None:
    house = House(minio).set_up()
    own = {
        "put": [_on(house.bucket("evidence"), *PUT)],
        "keep": [
            _on(house.bucket("evidence"), *KEEP),
            _on(house.bucket("log"), "GetObject", "PutObject", "ListBucket"),
        ],
        "probe": [_on(house.bucket("probe"), "*")],
    }[who]
    if who != "probe" and bucket == "evidence":
        own = own[1:]
    house.allow(who, *own, _on(house.bucket(bucket), *actions))
    found = await house.broken()
    assert expected <= found
    assert all(slug.startswith(who) for slug in found), found
    assert house.versions("evidence") == house.versions("log") == {}


@pytest.mark.parametrize(("who", "own"), [("put", PUT), ("keep", KEEP)])
async def test_an_identity_that_may_remove_the_bucket_is_found_out(
    minio: Minio, who: str, own: tuple[str, ...]
) -> None:
    import io

    house = House(minio).set_up()
    house.admin.put_object(house.bucket("evidence"), "it", io.BytesIO(b"it"), 2)
    log = [_on(house.bucket("log"), "GetObject", "PutObject", "ListBucket")] if who == "keep" else []
    house.allow(who, *log, _on(house.bucket("evidence"), *own, "DeleteBucket"))
    assert f"{who}-bucket-delete" in await house.broken()
    assert house.versions("evidence") == {"it": 1}


@pytest.mark.parametrize(
    "when",
    [
        {"expiration": Expiration(days=1)},
        {"expiration": Expiration(date=datetime(2099, 1, 1, tzinfo=UTC))},
        {"expiration": Expiration(expired_object_delete_marker=True)},
        {"noncurrent_version_expiration": NoncurrentVersionExpiration(noncurrent_days=1)},
    ],
)
async def test_a_bucket_whose_objects_expire_by_rule_is_named(minio: Minio, when: dict[str, Any]) -> None:
    house = House(minio).set_up()
    house.admin.set_bucket_lifecycle(
        house.bucket("evidence"), LifecycleConfig([Rule(ENABLED, rule_filter=Filter(prefix=""), **when)])
    )
    found = await house.examine()
    assert not found["bucket-evidence-lifecycle"].held
    assert house.bucket("evidence") in found["bucket-evidence-lifecycle"].seen
    store = house.store()
    assert [one.slug for one in await conformance.configuration(store) if not one.held] == [
        "bucket-evidence-lifecycle"
    ]
    await store.stop()


async def test_an_identity_that_may_not_see_the_rules_is_told_what_to_do(minio: Minio) -> None:
    house = House(minio).set_up()
    log = _on(house.bucket("log"), "GetObject", "PutObject", "ListBucket")
    house.allow("keep", log, _on(house.bucket("evidence"), *KEEP[:-1]))
    assert "setup-store" in (await house.examine())["bucket-evidence-lifecycle"].seen


async def test_a_bucket_that_is_open_to_strangers_is_found_out(minio: Minio) -> None:
    import json

    house = House(minio).set_up()
    everybody = {"Principal": {"AWS": ["*"]}}
    statement = _on(house.bucket("evidence"), "GetObject", "PutObject", "DeleteObject", "ListBucket") | everybody
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    house.admin.set_bucket_policy(house.bucket("evidence"), policy)
    assert {"open-get", "open-list", "open-put"} <= await house.broken()


async def test_the_disposing_identity_deletes_what_has_lapsed_and_nothing_else(house: House) -> None:
    import io

    from minio import Minio as Client
    from minio.error import S3Error

    access, secret = house.dispose[0], house.dispose[1].get_secret_value()
    dispose = Client(
        endpoint=house.minio.endpoint, access_key=access, secret_key=secret, secure=False, region="us-east-1"
    )
    bucket, until = house.bucket("evidence"), datetime.now(UTC) + timedelta(seconds=3)
    put = house.admin.put_object(bucket, "it", io.BytesIO(b"it"), 2, retention=Retention(COMPLIANCE, until))
    for attempt in (
        lambda: dispose.remove_object(bucket, "it", version_id=put.version_id),
        lambda: dispose.get_object(bucket, "it"),
        lambda: dispose.put_object(bucket, "other", io.BytesIO(b"x"), 1),
    ):
        with pytest.raises(S3Error):
            attempt()
    await asyncio.sleep(4)
    dispose.remove_object(bucket, "it", version_id=put.version_id)
    assert house.versions("evidence") == {}


def test_the_running_vault_is_not_told_the_disposing_identity(minio_system: System) -> None:
    told = minio_system.stack.vault_environment()
    assert not [name for name in told if "DISPOSE" in name or "ADMIN" in name]
    kept = minio_system.stack.data / "secrets" / "store-dispose.json"
    assert kept.read_text() and not any(kept.read_text().split('"')[3] == value for value in told.values())


# --- the local folder ---


@pytest.fixture
def folder(tmp_path: Path) -> LocalStore:
    # Without the immutable flag, so that the folder can be removed at the end.
    return LocalStore(tmp_path / "store", "http://127.0.0.1:1", b"x" * 32, immutable=False)


def _told(found: list[Finding]) -> set[str]:
    return {finding.slug for finding in found if not finding.held}


async def test_the_local_folder_keeps_its_promises_and_its_evidence_is_not_touched(
    folder: LocalStore, tmp_path: Path
) -> None:
    await folder.start()
    half = tmp_path / "store" / "incoming" / "half-received"
    half.write_bytes(b"on its way")
    assert _told(await conformance.examine(folder)) == _told(await conformance.examine(folder)) == set()
    found = await conformance.examine(folder)
    assert {"put", "write-once", "overwrite", "read-only", "other-bytes"} < {finding.slug for finding in found}
    assert half.exists()
    assert not list((tmp_path / "store" / "evidence").iterdir())
    kept = [path for path in (tmp_path / "store" / "probe").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["object"]


async def test_a_folder_whose_files_were_altered_is_found_out(folder: LocalStore, tmp_path: Path) -> None:
    await conformance.examine(folder)
    kept = tmp_path / "store" / "probe" / "evidence" / "probe" / "object"
    kept.chmod(0o644)
    assert _told(await conformance.examine(folder)) == {"read-only"}
    kept.write_bytes(b"altered")
    kept.chmod(0o444)
    assert _told(await conformance.examine(folder)) == {"put"}
    with pytest.raises(StoreUnfit, match="如实读回"):
        await conformance.require(folder)


# --- the programs ---


def _run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "services.vault", *command]
    return subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_check_store_prints_a_line_a_check(minio_system: System) -> None:
    done = _run(minio_system.stack.vault_environment(), "check-store")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) > 40
    assert all(line.startswith("✓ ") for line in lines[:-1])
    assert lines[-1] == f"共 {len(lines) - 1} 项，全部守住。"


def test_check_store_says_that_the_folder_is_not_object_lock(local_system: System) -> None:
    done = _run(local_system.stack.vault_environment(), "check-store")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "不是对象锁定（Object Lock）" in done.stdout


def test_what_gave_way_is_named_by_both_programs(minio_system: System, minio: Minio) -> None:
    house = House(minio).set_up()
    environment = minio_system.stack.vault_environment() | {"QUANCHENG_VAULT_PORT": str(free_ports(1))}
    with gateway(minio, says_deleted) as gate:
        environment |= house.environment(gate.endpoint)
        checked, started = _run(environment, "check-store"), _run(environment)
    assert checked.returncode == 1
    assert "✗ 锁定期内按版本删除应被拒绝：存储回答 204" in checked.stdout
    assert started.returncode != 0
    assert "锁定期内按版本删除应被拒绝（存储回答 204）" in started.stdout + started.stderr


def test_a_store_that_is_away_is_told_apart(minio_system: System) -> None:
    silent = {"QUANCHENG_VAULT_S3_ENDPOINT": f"127.0.0.1:{free_ports(1)}"}
    done = _run(minio_system.stack.vault_environment() | silent, "check-store")
    assert (done.returncode, "对象存储暂不可用" in done.stdout) == (2, True)


def test_setting_up_needs_the_stores_administrator(local_system: System) -> None:
    done = _run(local_system.stack.vault_environment(), "setup-store")
    assert done.returncode == 64
    assert "QUANCHENG_STORE_ADMIN_ACCESS_KEY" in done.stderr
