"""What the api is told from outside, once, at its start. Secrets have no defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from the environment, prefix `QUANCHENG_API_`."""

    model_config = SettingsConfigDict(
        env_prefix="QUANCHENG_API_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    dsn: SecretStr
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8100
    public_url: str = "http://127.0.0.1:8100"
    """Where browsers and terminals reach the api; cookies are Secure when it is https."""
    vault_url: str = "http://127.0.0.1:8101"
    service_key: Path
    """PEM file (0600) of the Ed25519 key that signs this api's requests to the vault."""
    session_hours: Annotated[int, Field(ge=1, le=24)] = 12
    segment_seconds: Annotated[int, Field(ge=1, le=10)] = 4
    """Length of segments while nobody watches; it is one second while somebody does."""
    push_idle_seconds: Annotated[float, Field(gt=0)] = 300
    """How long a pushed recording waits for its source to come back before the server closes it."""
    push_silence_seconds: Annotated[float, Field(gt=0)] = 30
    """How long a push body may bring no byte before it is ended."""
    push_bodies: Annotated[int, Field(ge=1)] = 400
    """How many push bodies this process takes at once."""
    push_mbit_per_second: Annotated[float, Field(gt=0)] = 100
    """Faster than this a push body is made to wait."""
    upload_idle_seconds: Annotated[float, Field(gt=0, le=7 * 24 * 3600)] = 7 * 24 * 3600
    """How long an upload waits for its next byte before it expires."""
    upload_bodies: Annotated[int, Field(ge=1)] = 32
    """How many upload bodies this process takes at once, each with up to 32 MiB of memory."""
    upload_mbit_per_second: Annotated[float, Field(gt=0)] = 1000
    """Faster than this an upload body is made to wait."""
    file_bodies: Annotated[int, Field(ge=1)] = 8
    """How many single files this process takes at once, each with up to 128 MiB of memory."""
    file_seconds: Annotated[float, Field(gt=0)] = 900
    """How long one may take, however steadily it comes."""
    renditions: Annotated[int, Field(ge=1, le=64)] = 2
    """How many pieces of renditions this process has made at once, each by a process with up to two threads."""
    lost_after_seconds: Annotated[float, Field(gt=0)] = 24 * 3600
    """How long a terminal must have been silent before the server closes its recording."""
    lost_every_seconds: Annotated[float, Field(gt=0)] = 60
    work: bool = True
    """Whether this process does the jobs too. Where `python -m services.api work` runs apart: no."""
    demo: bool = False
    """Shown at the sign-in: the people of this system are made up."""

    @property
    def secure(self) -> bool:
        return self.public_url.startswith("https://")
