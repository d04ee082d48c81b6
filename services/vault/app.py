"""The vault's process: settings in, one ASGI application out."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import FastAPI, Request
from fastapi.responses import Response

from services.vault import errors
from services.vault.contract import http, wire
from services.vault.contract.verify import key_id
from services.vault.database import GONE
from services.vault.routes import API_VERBS, Caller, private, public
from services.vault.service import Vault
from services.vault.settings import Settings
from services.vault.stores.local import LocalStore
from services.vault.stores.staging import FolderStaging
from services.vault.stores.tickets import MOUNT, STAGING_MOUNT

_log = logging.getLogger("quancheng.vault")


def create_app(settings: Settings) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        vault = app.state.vault = await Vault.start(settings)
        vault.serve()
        if settings.work:
            vault.work()
        if isinstance(vault.store, LocalStore):
            app.state.local = {MOUNT: vault.store, STAGING_MOUNT: vault.staging}
        try:
            yield
        finally:
            await vault.stop()

    app = FastAPI(title="Quancheng vault", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    api_key = base64.b64decode(settings.api_key)
    app.state.callers = {key_id(api_key): Caller("api", Ed25519PublicKey.from_public_bytes(api_key), API_VERBS)}
    http.install(app, unavailable=GONE)
    app.add_exception_handler(errors.VaultError, _refuse)
    app.include_router(private)
    app.include_router(public)
    app.add_api_route("/healthz", _healthy, methods=["GET"], include_in_schema=False)
    if settings.store == "local":
        for mount in (MOUNT, STAGING_MOUNT):
            app.mount(mount, _LocalDoor(app, mount), name=mount[1:])
    app.add_middleware(http.BodyLimit, limit_of=_limit_of)
    return app


class _LocalDoor:
    """A local folder's ticket address; the folder is there once the vault has started."""

    def __init__(self, app: FastAPI, mount: str):
        self._app, self._mount = app, mount

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        folder: LocalStore | FolderStaging = self._app.state.local[self._mount]
        await folder(scope, receive, send)


def _limit_of(_method: str, path: str) -> int | None:
    if path.startswith((MOUNT + "/", STAGING_MOUNT + "/")):
        return None  # the ticket says how long the body is, and the store holds it to that
    return wire.MAX_CLOSING_BYTES * 2 if path.endswith("/close") else wire.MAX_MESSAGE_BYTES


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.VaultError)
    # A refusal is of this moment: a cache that kept the 404 of a tile would hide the tile once it is there.
    headers = {"cache-control": "no-store"}
    if error.status >= 500:  # what is behind the vault is nobody else's business
        _log.warning("%s: %s", error.slug, error.detail)
        headers["retry-after"] = "2"
        return http.problem(error.status, error.slug, error.title, headers=headers, **error.extra)
    if "retry_after" in error.extra:
        headers["retry-after"] = str(error.extra["retry_after"])
    if isinstance(error, errors.RangeUnsatisfiable):
        headers["content-range"] = f"bytes */{error.extra['size']}"
    return http.problem(error.status, error.slug, error.title, detail=error.detail, headers=headers, **error.extra)


async def _healthy() -> dict[str, str]:
    return {"status": "ok"}
