"""What the vault is told from outside, once, at its start. Secrets have no defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.vault.contract.verify import VerificationError, parse_witnesses

Url = Annotated[str, Field(pattern=r"^https?://[^\s?#]{1,500}$")]


class Witness(BaseModel):
    """`url` is the witness's submission prefix, `vkey` its note key of type cosignature/v1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Url
    vkey: Annotated[str, Field(max_length=300)]


class TimestampAuthority(BaseModel):
    """`certificate` is a PEM file: the authority's own, which is pinned, then those above it up to the root."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Url
    certificate: Path


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
    keys_passphrase_file: Path
    """File whose first line is the passphrase that they are encrypted under; kept apart from the keys."""
    origin: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9./-]{2,127}$")]
    """The log's name, which is also its checkpoint key's name. It never changes."""
    api_key: Annotated[str, Field(min_length=44, max_length=44)]
    """The api's service public key, raw, base64."""

    work: bool = True
    """Whether this process does the jobs too. Where `python -m services.vault work` runs apart: no."""

    witnesses: tuple[Witness, ...] = ()
    """Those that are asked to cosign each checkpoint before it is published (C2SP tlog-witness), as JSON:
    `[{"url": "https://witness.example/", "vkey": "name+id+key"}]`. Without any, nobody is asked."""
    witnesses_needed: Annotated[int, Field(ge=0, le=64)] = 0
    """How many of them a checkpoint must have: 1 to all; 0 where there are none."""
    witness_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long publishing, and an export, waits for them."""

    tsas: tuple[TimestampAuthority, ...] = ()
    """Time-stamping authorities (RFC 3161), asked in this order, as JSON:
    `[{"url": "http://tsa.example/", "certificate": "/etc/quancheng/tsa.pem"}]`. Without any, nobody is asked."""

    store: Literal["local", "s3"] = "local"
    retention_days: Annotated[float, Field(gt=0, le=366)] = 180
    """How far ahead an object is locked when it is put (DESIGN rule 5: at most twelve months)."""

    keep_days: Annotated[float, Field(gt=0, le=36500)] = 184
    """How long a recording is kept that nobody set a term for, after its source was last active: six months."""
    renew_every_seconds: Annotated[float, Field(gt=0, le=86400)] = 600
    """How often it is looked whose locks are due for renewal."""

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
    s3_tickets_secure: bool | None = None
    """Whether holders of tickets reach that same name by https, where a proxy ends TLS before a store that the vault
    itself reaches in the clear. By default as `s3_secure` says."""
    s3_region: str = "us-east-1"
    s3_evidence_bucket: str = "quancheng-evidence"
    s3_log_bucket: str = "quancheng-log"
    s3_staging_bucket: str = "quancheng-staging"
    """Plain, for copies that live as long as an export; nothing in it is evidence."""
    s3_put_access_key: str | None = None
    s3_put_secret_key: SecretStr | None = None
    s3_keep_access_key: str | None = None
    s3_keep_secret_key: SecretStr | None = None
    s3_probe_bucket: str = "quancheng-probe"
    """Where the lock conformance suite attacks an object of its own; it holds nothing else."""
    s3_probe_access_key: str | None = None
    s3_probe_secret_key: SecretStr | None = None

    partial_tile_seconds: Annotated[float, Field(gt=0)] = 15 * 60
    """How long the log's partial tiles stay public after a full tile has superseded them."""
    watch_seconds: Annotated[float, Field(gt=0, le=600)] = 60
    """How often the store's clock, the evidence bucket's configuration and who does the jobs are looked at."""
    export_days: Annotated[float, Field(gt=0, le=7)] = 7
    """How long an export may be fetched, from when it was asked for."""
    scratch: Path | None = None
    """Where copies are made, with room for one of 5 GiB: a folder of this process' own. By default the system's
    temporary one."""

    sample_per_minute: Annotated[int, Field(ge=1, le=600)] = 6
    """Sealed objects looked at again each minute, chosen at random."""

    @model_validator(mode="after")
    def _policy_can_be_met(self) -> Self:
        try:
            parse_witnesses(witness.vkey for witness in self.witnesses)
        except VerificationError as error:
            raise ValueError(f"QUANCHENG_VAULT_WITNESSES: {error}") from error
        if not min(len(self.witnesses), 1) <= self.witnesses_needed <= len(self.witnesses):
            raise ValueError("QUANCHENG_VAULT_WITNESSES_NEEDED must be between 1 and the number of witnesses")
        return self

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
