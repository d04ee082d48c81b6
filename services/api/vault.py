"""The request's client to the vault."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from services.vault.contract.client import VaultClient


def _client(request: Request) -> VaultClient:
    client: VaultClient = request.app.state.vault
    return client


Vault = Annotated[VaultClient, Depends(_client)]
