"""The whole system as its users meet it: live processes, the demo bureau, terminals, people signed in."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from deploy.local import bureau
from deploy.local.bureau import Bureau
from deploy.local.demo import fetch, prepared, unpack
from deploy.local.folders import discard
from deploy.local.processes import ROOT
from deploy.local.stack import Stack
from services.vault.contract.client import VaultClient


@dataclass
class System:
    """A running stack with its demo bureau; `folder` is for what a test leaves behind."""

    stack: Stack
    people: Bureau
    folder: Path
    said: list[str] = field(default_factory=list)

    def sign_in(self, login: str) -> httpx.Client:
        """A client with this person's session and CSRF token; close it or let it go."""
        told = {"login": login, "password": self.people.passwords[login]}
        answer = httpx.post(f"{self.stack.api_url}/v1/sessions", json=told, timeout=30, trust_env=False)
        answer.raise_for_status()
        return httpx.Client(
            base_url=self.stack.api_url,
            cookies=answer.cookies,
            headers={"x-csrf-token": answer.json()["csrf"]},
            timeout=30,
            trust_env=False,
        )

    def new_terminal(self, name: str, api_url: str | None = None) -> Path:
        """The home folder of a freshly enrolled terminal of the bureau's recorder; it keeps to `api_url`."""
        home = self.folder / f"terminal-{name}"
        code = bureau.enrolment_code(self.stack, self.people)
        self.terminal("enroll", home, "--api", api_url or self.stack.api_url, "--code", code)
        return home

    def terminal(self, command: str, home: Path, *arguments: str, timeout: float = 120) -> list[dict[str, Any]]:
        """Run the reference terminal to its end; its JSON events. Raises CalledProcessError."""
        done = subprocess.run(
            terminal_argv(command, home, *arguments),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
        return events_of(done.stdout)

    def start_terminal(
        self, command: str, home: Path, *arguments: str, within: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start the reference terminal; its events are lines of JSON on stdout. `within` is a command that starts
        another."""
        return subprocess.Popen(
            [*within, *terminal_argv(command, home, *arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def vault(self) -> VaultClient:
        """The vault as the api speaks to it, with the api's own service key."""
        pem = (self.stack.data / "secrets" / "api-service.pem").read_bytes()
        key = load_pem_private_key(pem, password=None)
        assert isinstance(key, Ed25519PrivateKey)
        return VaultClient(self.stack.vault_url, key)

    def export(self, *recordings: str, **more: Any) -> Path:
        """Fetch the evidence bundle of these recordings as the supervisor; the unpacked folder."""
        with contextlib.closing(self.sign_in("li")) as client:
            asked = client.post("/v1/exports", json={"recordings": recordings, "purpose": "spot-check", **more})
            asked.raise_for_status()
            export = prepared(client, asked.json())
            tar = self.folder / f"{export['id']}.tar"
            fetch(client, export["download"], tar)
        unpack(tar, self.folder)
        return self.folder / f"quancheng-{export['id']}"


def next_minute(system: System) -> None:
    """What was queued lies in the past, each in a minute of its own."""
    system.stack.postgres.run_sql(
        "UPDATE vault.timestamps SET minute = '2000-01-01Z'::timestamptz + size * interval '1 min'"
    )


def terminal_argv(command: str, home: Path, *arguments: str) -> list[str]:
    progress = [] if command == "enroll" else ["--progress", "json"]
    return [sys.executable, "-m", "services.terminal", command, "--home", str(home), *arguments, *progress]


def events_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def free_ports(count: int = 3) -> int:
    """The first of `count` free ports in a row."""
    # From anywhere, so that two runs seldom choose alike; each process of one run has a part of its own.
    part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 3
    for port in random.sample(range(20000 + 10 * part, 30000, 30), 300):
        with contextlib.ExitStack() as opened:
            try:
                for each in range(port, port + count):
                    opened.enter_context(socket.socket()).bind(("127.0.0.1", each))
            except OSError:
                continue
            return port
    raise RuntimeError("no free ports")


@contextlib.contextmanager
def running(
    minio: Path | None, *, port: int | None = None, settings: dict[str, str] | None = None
) -> Iterator[System]:
    """A system of its own in a temporary folder, which is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="quancheng-test-"))
    said: list[str] = []
    try:
        stack = Stack(folder / "data", port=port or free_ports(), minio=minio, report=said.append, settings=settings)
        with stack:
            yield System(stack, bureau.found(stack), folder, said)
    finally:
        discard(folder)
