"""What the vault is told from outside, once, at its start. Secrets have no defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from the environment, prefix `QUANCHENG_VAULT_`."""

    model_config = SettingsConfigDict(
        env_prefix="QUANCHENG_VAULT_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

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

    sweep_after_seconds: Annotated[float, Field(gt=0)] = 15 * 60
    """How long after its last ticket a segment that nobody committed is first looked for in the store. Looked for
    again at twice that time, and so on."""
    sweep_for_seconds: Annotated[float, Field(gt=0)] = 24 * 3600
    """After this, the last look is done and the intent lapses, until it is asked for again."""
    idle_seconds: Annotated[float, Field(gt=0)] = 24 * 3600
    """How long a source that can sign must be silent before the server closes in its stead."""
    sweep_every_seconds: Annotated[float, Field(gt=0, le=600)] = 5

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
            )
        )
        missing = [f"QUANCHENG_VAULT_{name.upper()}" for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError("missing " + ", ".join(missing))
        return self
