"""Vaults of a test's own: in this process, or started as a program to see what it says."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx

from deploy.local.processes import ROOT
from deploy.local.stack import Stack
from services.vault.settings import Settings
from tests.system import System

_PREFIX = "QUANCHENG_VAULT_"


def vault_settings(stack: Stack, **changes: str) -> Settings:
    """The settings of the stack's own vault, with changes."""
    whole = stack.vault_environment()
    given = {name.removeprefix(_PREFIX).lower(): value for name, value in whole.items() if name.startswith(_PREFIX)}
    return Settings.model_validate(given | changes)


def start_vault(environment: dict[str, str], *, seconds: float = 30) -> subprocess.CompletedProcess[str]:
    """Run the vault's program to its end, which is where a refused start leads."""
    return subprocess.run(
        [sys.executable, "-m", "services.vault"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def published(system: System) -> None:
    """Wait for the first checkpoint of a fresh vault."""
    until = time.monotonic() + 20
    while httpx.get(f"{system.stack.vault_url}/log/checkpoint", trust_env=False).status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
