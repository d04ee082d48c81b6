"""The api's process: settings in, one ASGI application out."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fastapi import FastAPI, Request
from fastapi.responses import Response
from sqlalchemy.ext.asyncio import AsyncEngine

from services.api import database, errors, jobs, outbox, problems, rebuilds
from services.api.console import files as file_pages
from services.api.console import footage as footage_pages
from services.api.console import routes as console
from services.api.console import sources
from services.api.identity import routes as identity
from services.api.jobs import routes as job_routes
from services.api.recorders import revocation
from services.api.recorders import routes as recorders
from services.api.recordings import detecting, manifests, pushing, takeovers, uploading, wholes
from services.api.recordings import routes as recordings
from services.api.recordings.doors import direct, heartbeat, limits, push, resumable, simple
from services.api.recordings.doors.feeding import Inits, Means
from services.api.recordings.files import arriving
from services.api.recordings.files import routes as files
from services.api.recordings.files import service as filing
from services.api.recordings.footage import routes as footage
from services.api.recordings.gathering import Means as UploadMeans
from services.api.recordings.gathering import Tails
from services.api.recordings.holding import Holder
from services.api.recordings.reading import Reader
from services.api.recordings.renditions.showing import Renditions
from services.api.settings import Settings
from services.jobs import Jobs
from services.vault.contract import http, wire
from services.vault.contract.client import VaultClient, VaultRefused, VaultUnreachable

_CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "worker-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
}
_SMALL_BODY = 64 * 1024


def create_app(settings: Settings) -> FastAPI:
    key = _service_key(settings.service_key)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = app.state.engine = database.connect(settings)
        app.state.sessions = database.sessions_of(engine)
        async with VaultClient(settings.vault_url, key) as vault, _store_client() as store:
            app.state.vault, app.state.reader = vault, Reader(vault, store)
            app.state.renditions = Renditions(app.state.sessions, app.state.reader, settings.renditions)
            app.state.push_means = Means(
                app.state.sessions,
                vault,
                Holder(app.state.sessions, vault, store),
                app.state.reader,
                Inits(),
                timedelta(seconds=settings.push_idle_seconds),
            )
            app.state.push_bodies = push.Bodies(settings.push_bodies)
            app.state.upload_means = _upload_means(settings, engine, vault, store)
            app.state.upload_bodies = push.Bodies(settings.upload_bodies)
            app.state.file_means = filing.Means(app.state.sessions, vault, app.state.push_means.holder)
            app.state.file_bodies = push.Bodies(settings.file_bodies)
            loops = [asyncio.create_task(_learn_lock(app, vault))]
            if settings.work:
                loops.append(asyncio.create_task(jobs_of(settings, engine, vault, store).work()))
            try:
                yield
            finally:
                for loop in loops:
                    loop.cancel()
                await asyncio.gather(*loops, return_exceptions=True)
                app.state.renditions.close()
                await engine.dispose()

    app = _App(
        title="Quancheng 全程",
        description="行政执法全过程记录。Errors are RFC 9457 problems with a Chinese title and an English slug.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    app.state.settings, app.state.store_lock = settings, None
    problems.install(app)
    for kind, handler in list(app.exception_handlers.items()):
        app.add_exception_handler(kind, _for_people(handler))
    doors = (direct.router, heartbeat.router, push.router, resumable.router, simple.router)
    rooms = (
        identity.router,
        job_routes.router,
        recorders.router,
        *doors,
        recordings.router,
        files.router,
        footage.router,
    )
    for routes in (*rooms, console.router, sources.router, file_pages.router, footage_pages.router):
        app.include_router(routes)
    app.add_api_route("/healthz", _healthy, methods=["GET"], include_in_schema=False)
    app.add_middleware(http.BodyLimit, limit_of=_limit_of, refuse=_refuse)
    return app


def jobs_of(settings: Settings, engine: AsyncEngine, vault: VaultClient, store: httpx.AsyncClient) -> Jobs:
    """The api's queue, with what does each kind of job and what recurs."""
    sessions = database.sessions_of(engine)
    queue = jobs.queue(settings.dsn.get_secret_value(), engine)
    queue.handle(outbox.TELL, lambda act: outbox.tell_later(sessions, vault, act))
    queue.every("rebuilds", rebuilds.LOOK_SECONDS, lambda: rebuilds.look(sessions, vault))
    queue.handle(rebuilds.ENROL, lambda key: revocation.enrol_again(sessions, vault, key))
    queue.every("revocations", revocation.TELL_SECONDS, lambda: revocation.tell_untold(sessions, vault))
    after = timedelta(seconds=settings.lost_after_seconds)
    queue.every("close-lost", settings.lost_every_seconds, lambda: manifests.close_lost(sessions, vault, after=after))
    queue.every("close-idle", pushing.CLOSE_SECONDS, lambda: pushing.close_idle(sessions, vault))
    uploads = _upload_means(settings, engine, vault, store)
    queue.handle(uploading.CLOSE, lambda upload: wholes.close(uploads, upload))
    queue.handle(uploading.JOIN, lambda upload: wholes.join(uploads, upload))
    reader = uploads.reader
    queue.handle(detecting.DETECT, lambda closing: detecting.find(sessions, reader, closing), at_once=1)
    queue.handle(takeovers.CHECK, lambda recording: takeovers.check(sessions, reader, recording))
    filed = filing.Means(sessions, vault, uploads.holder)
    queue.handle(uploading.ARRIVE, lambda upload: arriving.arrive(filed, reader, upload))
    queue.every("expire-uploads", uploading.EXPIRE_SECONDS, lambda: uploading.expire(sessions))
    return queue


def _store_client() -> httpx.AsyncClient:
    bounds = httpx.Limits(max_connections=64, max_keepalive_connections=16)
    return httpx.AsyncClient(timeout=httpx.Timeout(20, connect=3), limits=bounds, trust_env=False)


def _upload_means(
    settings: Settings, engine: AsyncEngine, vault: VaultClient, store: httpx.AsyncClient
) -> UploadMeans:
    sessions = database.sessions_of(engine)
    return UploadMeans(
        sessions,
        vault,
        Holder(sessions, vault, store),
        Reader(vault, store),
        Tails(vault, store),
        timedelta(seconds=settings.upload_idle_seconds),
        limits.UPLOAD_BYTES,
    )


async def work(settings: Settings, until: asyncio.Event) -> None:
    """Do the jobs, for apis that serve with QUANCHENG_API_WORK=false. Running jobs are given back at the end."""
    engine = database.connect(settings)
    async with VaultClient(settings.vault_url, _service_key(settings.service_key)) as vault, _store_client() as store:
        working = asyncio.create_task(jobs_of(settings, engine, vault, store).work())
        await until.wait()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    await engine.dispose()


class _App(FastAPI):
    def build_middleware_stack(self) -> Any:
        """Outermost, so that the answers of every layer below carry them, unknown errors too."""
        return _SafeHeaders(super().build_middleware_stack())


def _service_key(path: Path) -> Ed25519PrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError(f"{path} is not an Ed25519 key")
    return key


async def _learn_lock(app: FastAPI, vault: VaultClient) -> None:
    """What every page says of the store, asked until the vault has answered once."""
    while app.state.store_lock is None:
        try:
            app.state.store_lock = (await vault.identity()).lock
        except (VaultUnreachable, VaultRefused):
            await asyncio.sleep(2)


def _for_people(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A problem, as a page where it is a page that failed."""

    async def answer(request: Request, error: Exception) -> Response:
        response = handler(request, error)
        problem: Response = await response if inspect.isawaitable(response) else response
        if not console.speaks_to(request):
            return problem
        return console.problem_page(request, problem, signed_out=isinstance(error, errors.NotSignedIn))

    return answer


def _refuse(scope: http.Scope, status: int) -> Response:
    request, problem = Request(scope), http.status_problem(status)
    return console.problem_page(request, problem) if console.speaks_to(request) else problem


def _limit_of(method: str, path: str) -> int | None:
    if path.startswith("/v1/push/") or (path.startswith("/v1/uploads/") and method in ("POST", "PATCH")):
        return None
    if simple.takes_bytes(method, path):
        return None
    if path.endswith("/close"):
        return wire.MAX_CLOSING_BYTES * 2
    return wire.MAX_MESSAGE_BYTES if path.endswith(("/exchange", "/v1/exports")) else _SMALL_BODY


async def _healthy() -> dict[str, str]:
    return {"status": "ok"}


class _SafeHeaders:
    """On every answer what browsers need in order to refuse the rest."""

    def __init__(self, app: http.Asgi):
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        async def with_headers(message: http.Scope) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._headers]}
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
