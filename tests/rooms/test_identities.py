"""What each identity of the store and each role of the database cannot do, whoever comes to hold its secret."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from minio import Minio as Client
from minio import S3Error
from minio.commonconfig import COMPLIANCE, ENABLED, GOVERNANCE, CopySource
from minio.deleteobjects import DeleteObject
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.retention import Retention
from minio.versioningconfig import SUSPENDED, VersioningConfig
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local.stack import Stack
from services.vault.stores.port import StoredObject
from tests.rooms.houses import Houses
from tests.rooms.stores import S3Room, client, piece
from tests.system import System

LATER = datetime.now(UTC) + timedelta(days=40)
SOONER = datetime.now(UTC) + timedelta(days=1)


class Held:
    """A sealed object and clients that hold the secrets of the vault's two identities."""

    def __init__(self, room: S3Room, sealed: StoredObject):
        self.room, self.sealed = room, sealed
        self.evidence, self.log = room.settings.s3_evidence_bucket, room.settings.s3_log_bucket
        self.key, self.version = sealed.key, sealed.version
        endpoint = str(room.settings.s3_endpoint)
        assert room.settings.s3_put_secret_key and room.settings.s3_keep_secret_key
        self.put = client(
            endpoint, str(room.settings.s3_put_access_key), room.settings.s3_put_secret_key.get_secret_value()
        )
        self.keep = client(
            endpoint, str(room.settings.s3_keep_access_key), room.settings.s3_keep_secret_key.get_secret_value()
        )


@pytest.fixture(scope="module")
async def held(minio_system: System) -> Held:
    assert minio_system.stack.minio
    room = S3Room(minio_system.stack.minio, "identities")
    await room.store.start()
    it = piece(room, b"evidence")
    sealed = await room.store.put(it.key, it.data, it.retain_until)
    await room.store.publish("tile/0/000", b"tile", immutable=True)
    await room.store.stop()
    return Held(room, sealed)


@pytest.fixture(autouse=True)
def _the_object_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "held" in request.fixturenames:
        held: Held = request.getfixturevalue("held")
        assert held.room.everything() == {held.key: [b"evidence"]}
        kept = held.room.admin.get_object_retention(held.evidence, held.key, version_id=held.version)
        assert kept is not None
        assert kept.mode == COMPLIANCE


def _put_object(who: Client, bucket: str, key: str, headers: dict[str, Any] | None = None) -> None:
    who.put_object(bucket, key, io.BytesIO(b"x"), 1, metadata=headers)


def _list(who: Client, bucket: str) -> None:
    list(who.list_objects(bucket, include_version=True))


def _remove_many(who: Client, bucket: str, key: str, version: str | None) -> None:
    for error in who.remove_objects(bucket, [DeleteObject(key, version)]):
        raise S3Error(None, error.code, error.message, None, None, None)  # type: ignore[arg-type]


def _list_buckets(who: Client) -> None:
    """Some stores answer an empty list instead of refusing."""
    assert not who.list_buckets()
    raise S3Error(None, "AccessDenied", "no bucket was listed", None, None, None)  # type: ignore[arg-type]


Attack = Callable[[Held], object]

READS: dict[str, Attack] = {
    "read": lambda h: h.put.get_object(h.evidence, h.key),
    "read that version": lambda h: h.put.get_object(h.evidence, h.key, version_id=h.version),
    "head": lambda h: h.put.stat_object(h.evidence, h.key),
    "list": lambda h: _list(h.put, h.evidence),
    "read a retention": lambda h: h.put.get_object_retention(h.evidence, h.key),
    "read the bucket's lock": lambda h: h.put.get_object_lock_config(h.evidence),
    "copy": lambda h: h.put.copy_object(h.evidence, "copy", CopySource(h.evidence, h.key)),
    "list buckets": lambda h: _list_buckets(h.put),
    "read the log": lambda h: h.put.get_object(h.log, "tile/0/000"),
}


def _changes(who: str) -> dict[str, Attack]:
    """What neither identity may do."""

    def by(held: Held) -> Client:
        found: Client = getattr(held, who)
        return found

    return {
        "delete": lambda h: by(h).remove_object(h.evidence, h.key),
        "delete that version": lambda h: by(h).remove_object(h.evidence, h.key, version_id=h.version),
        "delete many": lambda h: _remove_many(by(h), h.evidence, h.key, None),
        "delete many versions": lambda h: _remove_many(by(h), h.evidence, h.key, h.version),
        "tag": lambda h: by(h).delete_object_tags(h.evidence, h.key),
        "suspend versions": lambda h: by(h).set_bucket_versioning(h.evidence, VersioningConfig(SUSPENDED)),
        "enable versions of the log": lambda h: by(h).set_bucket_versioning(h.log, VersioningConfig(ENABLED)),
        "change the bucket's lock": lambda h: by(h).set_object_lock_config(
            h.evidence, ObjectLockConfig(GOVERNANCE, 1, DAYS)
        ),
        "take the bucket's lock": lambda h: by(h).delete_object_lock_config(h.evidence),
        "set a policy": lambda h: by(h).set_bucket_policy(h.evidence, "{}"),
        "let objects lapse": lambda h: by(h).delete_bucket_lifecycle(h.evidence),
        "remove the bucket": lambda h: by(h).remove_bucket(h.evidence),
        "make a bucket": lambda h: by(h).make_bucket(f"made-by-{who}"),
        "shorten the lock": lambda h: by(h).set_object_retention(
            h.evidence, h.key, Retention(COMPLIANCE, SOONER), version_id=h.version
        ),
        "weaken the lock": lambda h: by(h).set_object_retention(
            h.evidence, h.key, Retention(GOVERNANCE, LATER), version_id=h.version
        ),
    }


@pytest.mark.parametrize("act", READS)
def test_put_reads_nothing(held: Held, act: str) -> None:
    with pytest.raises(S3Error) as refused:
        READS[act](held)
    assert refused.value.code == "AccessDenied"


_LOCKED = dict.fromkeys(("shorten the lock", "weaken the lock"), ("AccessDenied", "InvalidRequest"))
"""An identity may ask for a longer retention; that it is not a longer one, the lock itself says."""

PUT_CHANGES = _changes("put") | {
    "hold": lambda h: h.put.enable_object_legal_hold(h.evidence, h.key, h.version),
    "put under a hold": lambda h: _put_object(h.put, h.evidence, "held", {"x-amz-object-lock-legal-hold": "ON"}),
    "write the log": lambda h: _put_object(h.put, h.log, "checkpoint"),
    "write another bucket": lambda h: _put_object(h.put, "quancheng-evidence", "x"),
}
KEEP_CHANGES = _changes("keep") | {
    "put evidence": lambda h: _put_object(h.keep, h.evidence, "planted"),
    "put over evidence": lambda h: _put_object(h.keep, h.evidence, h.key),
    "copy evidence": lambda h: h.keep.copy_object(h.evidence, "copy", CopySource(h.evidence, h.key)),
    "delete of the log": lambda h: h.keep.remove_object(h.log, "tile/0/000"),
    "write another bucket": lambda h: _put_object(h.keep, "quancheng-log", "checkpoint"),
    "read another bucket": lambda h: _list(h.keep, "quancheng-evidence"),
}


@pytest.mark.parametrize("act", PUT_CHANGES)
def test_put_changes_nothing_that_lies_there(held: Held, act: str) -> None:
    with pytest.raises(S3Error) as refused:
        PUT_CHANGES[act](held)
    assert refused.value.code in _LOCKED.get(act, ("AccessDenied",))


@pytest.mark.parametrize("act", KEEP_CHANGES)
def test_keep_puts_and_takes_away_nothing(held: Held, act: str) -> None:
    with pytest.raises(S3Error) as refused:
        KEEP_CHANGES[act](held)
    assert refused.value.code in _LOCKED.get(act, ("AccessDenied",))


async def test_bypassing_a_lock_is_denied(held: Held) -> None:
    """The header that lifts GOVERNANCE is worth nothing to either identity."""
    for who in (held.put, held.keep):
        with pytest.raises(S3Error):
            who._execute(
                "DELETE",
                held.evidence,
                held.key,
                headers={"x-amz-bypass-governance-retention": "true"},
                query_params={"versionId": held.version},
            )


def test_copies_lie_where_keep_alone_reads_writes_and_deletes(held: Held) -> None:
    bucket = held.room.settings.s3_staging_bucket
    _put_object(held.keep, bucket, "exports/copy")
    with pytest.raises(S3Error, match="AccessDenied"):
        held.put.get_object(bucket, "exports/copy")
    with pytest.raises(S3Error, match="AccessDenied"):
        _put_object(held.put, bucket, "exports/other")
    with pytest.raises(S3Error, match="AccessDenied"):
        held.put.remove_object(bucket, "exports/copy")
    held.keep.remove_object(bucket, "exports/copy")


def test_keep_reads_and_extends(held: Held) -> None:
    assert held.keep.stat_object(held.evidence, held.key, version_id=held.version).size == 8
    held.keep.set_object_retention(held.evidence, held.key, Retention(COMPLIANCE, LATER), version_id=held.version)
    kept = held.keep.get_object_retention(held.evidence, held.key, version_id=held.version)
    assert kept is not None
    assert abs(kept.retain_until_date - LATER) < timedelta(seconds=1)


# --- the database's roles ---


def _sql(stack: Stack, role: str, statement: str) -> None:
    async def run() -> None:
        engine = create_async_engine(stack.postgres.dsn(role))
        try:
            async with engine.begin() as db:
                await db.execute(text(statement))
        finally:
            await engine.dispose()

    asyncio.run(run())


def _tables(stack: Stack, schema: str) -> list[str]:
    rows = stack.postgres.run_sql(
        f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}' ORDER BY 1"
    )
    found = rows.split()
    assert len(found) > 8
    return found


def _denied(stack: Stack, role: str, statement: str) -> None:
    with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
        _sql(stack, role, statement)


@pytest.mark.parametrize(("role", "schema"), [("quancheng_api", "vault"), ("quancheng_vault", "api")])
def test_a_role_has_no_way_into_the_other_schema(local_system: System, role: str, schema: str) -> None:
    stack = local_system.stack
    for table in _tables(stack, schema):
        rights = "ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']"
        granted = stack.postgres.run_sql(
            f"SELECT bool_or(has_table_privilege('{role}', '{schema}.{table}', p)) FROM unnest({rights}) p"
        )
        assert granted.strip() == "f", table
    for statement in ("SELECT 1 FROM {}", "DELETE FROM {}", "TRUNCATE {}", "COPY {} TO STDOUT"):
        _denied(stack, role, statement.format(f"{schema}.{_tables(stack, schema)[0]}"))


@pytest.mark.parametrize("role", ["quancheng_api", "quancheng_vault"])
def test_a_role_makes_and_reads_nothing_outside_its_tables(local_system: System, role: str) -> None:
    own, stack = role.removeprefix("quancheng_"), local_system.stack
    for statement in (
        f"CREATE TABLE {own}.planted (x int)",
        "CREATE TABLE public.planted (x int)",
        "CREATE TEMP TABLE planted (x int)",
        f"ALTER TABLE {own}.recordings DROP COLUMN state",
        f"DROP TABLE {own}.segments",
        f"TRUNCATE {own}.segments",
        "CREATE SCHEMA planted",
        "CREATE ROLE planted",
        "SET ROLE quancheng_owner",
        "SELECT rolpassword FROM pg_authid",
        "COPY (SELECT 1) TO '/tmp/planted'",
        "SELECT pg_read_file('/etc/passwd')",
        f"SELECT 1 FROM {own}.alembic_version",
    ):
        _denied(stack, role, statement)


UNCHANGING = {
    "quancheng_api": ("units", "people", "recorders", "exports", "exported_recordings"),
    "quancheng_vault": (
        *("log_entries", "log_pending"),
        *("terms", "orders", "held_recordings", "export_files", "export_pieces"),
    ),
}
FIXED = {
    "quancheng_api": {
        "segments": ("recording_id", "sequence", "sha256", "size", "sealed_at", "lock", "key_id"),
        "recordings": ("id", "recorder_id", "unit_id", "officer_id", "key_id", "started_at"),
        "outbox": ("act", "kind", "fields", "at"),
        "viewings": (
            *("id", "recording_id", "file_id", "file_version", "person_id", "purpose", "note", "at", "until"),
            "first_sequence",
        ),
        "handovers": ("id", "source_id", "handed_over_by", "taken_over_by", "taken_over_at", "export_sha256"),
        "takeovers": ("recording_id", "at", "reason", "size", "sha256"),
        "recorder_keys": ("key_id", "recorder_id", "public_key", "model", "enrolled_at"),
        "enrolment_codes": ("code_sha256", "recorder_id", "expires_at"),
        "sessions": ("token_sha256", "person_id", "csrf", "expires_at"),
    },
    "quancheng_vault": {
        "segments": ("recording_id", "sequence", "sha256", "size", "key", "asked_at"),
        "recordings": ("id", "source", "key_id", "started_at"),
        "keys": ("key_id", "purpose", "public_key", "act", "since", "replaces", "succession", "reason"),
        "enrolments": ("key_id", "recorder", "public_key", "act", "enrolled_at"),
        "holds": ("id", "case_id", "reason", "placed_at"),
        "custodians": ("key_id", "name", "public_key", "enrolled_at"),
        "tombstones": ("recording_id", "order_id", "act", "began_at"),
        "kept_files": ("key", "version", "sha256", "size"),
        "manifests": ("envelope", "sha256", "closing", "key"),
        "exports": ("act", "person", "recordings", "series", "moment", "requested_at", "expires_at"),
        "export_items": ("act", "place", "kind", "recording_id", "number", "gone"),
    },
}


@pytest.mark.parametrize("role", UNCHANGING)
def test_history_is_not_rewritten_by_the_service_itself(houses: Houses, role: str) -> None:
    stack, schema = houses.system.stack, role.removeprefix("quancheng_")
    for table in UNCHANGING[role]:
        name = f"{schema}.{table}"
        granted = stack.postgres.run_sql(f"SELECT has_any_column_privilege('{role}', '{name}', 'UPDATE')")
        assert granted.strip() == "f", name
        _denied(stack, role, f"TRUNCATE {name}")
    for table, columns in FIXED[role].items():
        for column in columns:
            _denied(stack, role, f"UPDATE {schema}.{table} SET {column} = {column} WHERE false")


QUEUE = {"pgqueuer", "pgqueuer_log", "pgqueuer_statistics", "pgqueuer_schedules"}


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("quancheng_api", {"sessions", "sign_in_failures", *QUEUE}),
        ("quancheng_vault", {"log_pending", "export_items", "export_files", "export_pieces", *QUEUE}),
    ],
)
def test_only_what_is_meant_to_go_can_be_deleted(local_system: System, role: str, may: set[str]) -> None:
    stack, schema = local_system.stack, role.removeprefix("quancheng_")
    for table in _tables(stack, schema):
        if table not in may:
            _denied(stack, role, f"DELETE FROM {schema}.{table} WHERE false")
