"""A system on the local folder whose api and store are reached over links that can fail, and what it says then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.flows.link import Link
from tests.system import System, free_ports, running


@dataclass(frozen=True)
class Rig:
    system: System
    api: Link
    store: Link


@contextmanager
def linked() -> Iterator[Rig]:
    port = free_ports()
    with Link(port) as api, Link(port + 1) as store:
        settings = {"QUANCHENG_VAULT_LOCAL_PUBLIC_URL": store.url}
        with running(None, port=port, settings=settings) as system:
            yield Rig(system, api, store)


def look(client: httpx.Client, recording: str) -> dict[str, Any]:
    """The recording as a list shows it."""
    row: dict[str, Any] = client.get(f"/v1/recordings/{recording}").json()["row"]
    return row
