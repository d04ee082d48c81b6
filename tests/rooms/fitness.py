"""Stores of a test's own on a running MinIO, fit or unfit, and what the conformance suite says of them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from minio import Minio as Client
from minio import MinioAdmin
from minio.commonconfig import ENABLED
from minio.credentials.providers import StaticProvider
from minio.versioningconfig import VersioningConfig
from pydantic import SecretStr

from deploy.local.minio import Minio
from deploy.local.processes import ROOT
from services.vault.settings import Settings
from services.vault.stores import conformance
from services.vault.stores.findings import Finding
from services.vault.stores.s3 import S3Store
from services.vault.stores.setup import set_up

POLICIES = ROOT / "deploy" / "policies"
IDENTITIES = ("put", "keep", "probe")


@dataclass
class House:
    """Buckets and identities with a name of their own."""

    minio: Minio
    name: str = field(default_factory=lambda: f"h{secrets.token_hex(5)}")
    dispose: tuple[str, SecretStr] = field(init=False)
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.dispose = (f"{self.name}-dispose", SecretStr(secrets.token_urlsafe(30)))
        given: dict[str, Any] = {
            "dsn": SecretStr("postgresql+asyncpg://nobody@/nothing"),
            "keys": Path("/nonexistent"),
            "keys_passphrase_file": Path("/nonexistent"),
            "origin": "quancheng.test/00000000",
            "api_key": "A" * 43 + "=",
            "store": "s3",
            "s3_endpoint": self.minio.endpoint,
            "s3_secure": False,
        }
        for bucket in ("evidence", "log", "probe"):
            given[f"s3_{bucket}_bucket"] = f"{self.name}-{bucket}"
        for who in IDENTITIES:
            given[f"s3_{who}_access_key"] = f"{self.name}-{who}"
            given[f"s3_{who}_secret_key"] = SecretStr(secrets.token_urlsafe(30))
        self.settings = Settings(**given)

    @cached_property
    def admin(self) -> Client:
        return Client(
            endpoint=self.minio.endpoint,
            access_key=self.minio.access_key,
            secret_key=self.minio.secret_key,
            secure=False,
            region="us-east-1",
        )

    def bucket(self, kind: str) -> str:
        return f"{self.name}-{kind}"

    def set_up(self) -> House:
        set_up(self.settings, self.minio.access_key, self.minio.secret_key, POLICIES, dispose=self.dispose)
        return self

    def allow(self, who: str, *statements: dict[str, Any]) -> None:
        """What the identity may do from now on: this alone."""
        keys = StaticProvider(self.minio.access_key, self.minio.secret_key)
        admin = MinioAdmin(endpoint=self.minio.endpoint, credentials=keys, secure=False)
        name = f"{self.name}-other-{who}-{secrets.token_hex(3)}"
        admin.policy_add(name, policy={"Version": "2012-10-17", "Statement": list(statements)})
        admin.policy_set(name, user=f"{self.name}-{who}")

    def store(self, endpoint: str | None = None) -> S3Store:
        return S3Store(self.settings.model_copy(update={"s3_endpoint": endpoint} if endpoint else {}))

    async def examine(self, endpoint: str | None = None) -> dict[str, Finding]:
        store = self.store(endpoint)
        try:
            found = await conformance.examine(store)
        finally:
            await store.stop()
        assert len({finding.slug for finding in found}) == len(found)
        return {finding.slug: finding for finding in found}

    async def broken(self, endpoint: str | None = None) -> set[str]:
        return {slug for slug, finding in (await self.examine(endpoint)).items() if not finding.held}

    def versions(self, kind: str) -> dict[str, int]:
        """How many versions lie under each key."""
        found: dict[str, int] = {}
        for each in self.admin.list_objects(self.bucket(kind), recursive=True, include_version=True):
            assert each.object_name
            found[each.object_name] = found.get(each.object_name, 0) + 1
        return found

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The store's part of a vault's environment."""
        told = {"store": "s3", "s3_endpoint": endpoint or self.minio.endpoint, "s3_secure": "false"}
        for name, value in self.settings.model_dump().items():
            if name.startswith(("s3_evidence", "s3_log", "s3_probe", "s3_put", "s3_keep")):
                told[name] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return {f"QUANCHENG_VAULT_{name.upper()}": value for name, value in told.items()}


def plain(house: House, kind: str) -> None:
    house.admin.make_bucket(house.bucket(kind))


def versioned(house: House, kind: str) -> None:
    plain(house, kind)
    house.admin.set_bucket_versioning(house.bucket(kind), VersioningConfig(ENABLED))
