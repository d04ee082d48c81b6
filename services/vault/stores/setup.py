"""The buckets of an S3 and who may do what in them, made on MinIO by its administrator.

With `s3` the only file that imports `minio`. Run by a command of its own, never by the service: nothing else uses the
store's administrator.
"""

from __future__ import annotations

import json
from pathlib import Path

from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from pydantic import SecretStr

from services.vault.settings import Settings


def set_up(
    settings: Settings,
    admin_access_key: str,
    admin_secret_key: str,
    policies: Path,
    *,
    dispose: tuple[str, SecretStr] | None = None,
) -> None:
    """Make the buckets and the identities, each with its policy file. Repeatable.

    *dispose* is made only where its access key and secret key are given: the vault's settings do not know it.
    Speaks MinIO's admin API; on another store the buckets, users and policies are made by its own means and
    this is not run.
    """
    assert settings.s3_endpoint and settings.s3_put_access_key and settings.s3_keep_access_key
    assert settings.s3_put_secret_key and settings.s3_keep_secret_key
    assert settings.s3_probe_access_key and settings.s3_probe_secret_key
    client = Minio(
        endpoint=settings.s3_endpoint,
        access_key=admin_access_key,
        secret_key=admin_secret_key,
        secure=settings.s3_secure,
        region=settings.s3_region,
    )
    plain = (settings.s3_log_bucket, settings.s3_staging_bucket)
    buckets = (
        (settings.s3_evidence_bucket, True),
        (settings.s3_probe_bucket, True),
        *((one, False) for one in plain),
    )
    for bucket, locked in buckets:
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket, object_lock=locked)
    admin = MinioAdmin(
        endpoint=settings.s3_endpoint,
        credentials=StaticProvider(admin_access_key, admin_secret_key),
        secure=settings.s3_secure,
    )
    identities = [
        ("put", settings.s3_put_access_key, settings.s3_put_secret_key),
        ("keep", settings.s3_keep_access_key, settings.s3_keep_secret_key),
        ("probe", settings.s3_probe_access_key, settings.s3_probe_secret_key),
        *([("dispose", *dispose)] if dispose else []),
    ]
    for name, access_key, secret_key in identities:
        text = (policies / f"{name}.json").read_text("utf-8")
        text = text.replace("quancheng-evidence", settings.s3_evidence_bucket)
        text = text.replace("quancheng-probe", settings.s3_probe_bucket)
        text = text.replace("quancheng-log", settings.s3_log_bucket)
        text = text.replace("quancheng-staging", settings.s3_staging_bucket)
        policy = f"{settings.s3_evidence_bucket}-{name}"
        admin.policy_add(policy, policy=json.loads(text))
        admin.user_add(access_key, secret_key.get_secret_value())
        admin.policy_set(policy, user=access_key)
