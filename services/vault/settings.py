"""What the vault is told from outside, once, at its start. Secrets have no defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from the environment, prefix `QUANCHENG_VAULT_`."""

    model_config = SettingsConfigDict(env_prefix="QUANCHENG_VAULT_", frozen=True, extra="ignore")

    dsn: SecretStr
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8101
    keys: Path
    """Folder of the vault's private keys (0700); made at the first start."""
    origin: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9./-]{2,127}$")]
    """The log's name, which is also its checkpoint key's name. It never changes."""
    api_key: Annotated[str, Field(min_length=44, max_length=44)]
    """The api's service public key, raw, base64."""

    store: Literal["local", "s3"] = "local"
    retention_days: Annotated[int, Field(ge=1, le=366)] = 180
    """How far ahead an object is locked when it is put (DESIGN rule 5: at most twelve months)."""

    local_root: Path | None = None
    local_public_url: str | None = None
    """Where holders of tickets reach the local folder: this vault's own address."""

    s3_endpoint: str | None = None
    """host:port of the store, the name that tickets are signed for."""
    s3_secure: bool = True
    s3_region: str = "us-east-1"
    s3_evidence_bucket: str = "quancheng-evidence"
    s3_log_bucket: str = "quancheng-log"
    s3_put_access_key: str | None = None
    s3_put_secret_key: SecretStr | None = None
    s3_keep_access_key: str | None = None
    s3_keep_secret_key: SecretStr | None = None
    s3_probe_bucket: str = "quancheng-probe"
    """Where the lock conformance suite attacks an object of its own; it holds nothing else."""
    s3_probe_access_key: str | None = None
    s3_probe_secret_key: SecretStr | None = None

    sample_per_minute: Annotated[int, Field(ge=1, le=600)] = 6
    """Sealed objects looked at again each minute, chosen at random."""

    @model_validator(mode="after")
    def _store_is_whole(self) -> Self:
        needed = (
            ("local_root", "local_public_url")
            if self.store == "local"
            else (
                "s3_endpoint",
                "s3_put_access_key",
                "s3_put_secret_key",
                "s3_keep_access_key",
                "s3_keep_secret_key",
                "s3_probe_access_key",
                "s3_probe_secret_key",
            )
        )
        missing = [f"QUANCHENG_VAULT_{name.upper()}" for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError("missing " + ", ".join(missing))
        return self
