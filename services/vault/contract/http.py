"""What both ends of every wire agree on: errors are RFC 9457 problems, and no body is read past its limit."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

_log = logging.getLogger("quancheng.http")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_TITLES = {
    400: ("bad-request", "请求格式有误。"),
    401: ("not-signed-in", "请先登录。"),
    403: ("forbidden", "无权进行此操作。"),
    404: ("not-found", "没有找到所请求的内容。"),
    405: ("method-not-allowed", "此地址不支持这种操作。"),
    413: ("too-large", "提交的内容超过允许的大小。"),
    422: ("invalid", "提交的内容不符合要求。"),
    429: ("too-many-requests", "操作过于频繁，请稍后再试。"),
    500: ("internal", "系统内部错误，请稍后再试。"),
    503: ("unavailable", "服务暂不可用，请稍后再试。"),
}


def problem(
    status: int,
    slug: str,
    title: str,
    *,
    detail: str | None = None,
    headers: dict[str, str] | None = None,
    **extra: Any,
) -> JSONResponse:
    """An RFC 9457 answer; `title` is Chinese, `slug` English and stable."""
    body: dict[str, Any] = {
        "type": f"urn:quancheng:problem:{slug}",
        "title": title,
        "status": status,
        "slug": slug,
    }
    if detail:
        body["detail"] = detail
    body |= extra
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def status_problem(status: int, *, detail: str | None = None, headers: dict[str, str] | None = None) -> JSONResponse:
    """The general problem of a status, where no domain error says more."""
    phrase = HTTPStatus(status).phrase
    slug, title = _TITLES.get(status, (phrase.lower().replace(" ", "-"), f"请求未能完成（{status}）。"))
    return problem(status, slug, title, detail=detail, headers=headers)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return status_problem(error.status_code, headers=dict(error.headers) if error.headers else None)


def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # The input itself is left out: it may hold personal data or a password.
    places = [{"at": ".".join(map(str, e["loc"])), "why": e["msg"]} for e in error.errors()[:20]]
    return problem(422, *_TITLES[422], errors=places)


def _unknown(request: Request, error: Exception) -> Response:
    trace = secrets.token_hex(8)
    _log.error("unknown error trace=%s %s %s", trace, request.method, request.scope.get("path"), exc_info=error)
    return problem(500, *_TITLES[500], trace_id=trace)


def _unavailable(request: Request, error: Exception) -> Response:
    _log.warning("unavailable %s %s: %s", request.method, request.scope.get("path"), error)
    return problem(503, *_TITLES[503], headers={"retry-after": "2"})


def install(app: FastAPI, *, unavailable: Iterable[type[Exception]] = ()) -> None:
    """Every error the framework makes by itself becomes a problem too. `unavailable` are those that say that
    something behind the service does not answer: 503, and the caller comes again."""
    for kind in unavailable:
        app.add_exception_handler(kind, _unavailable)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unknown)


class _TooLarge(Exception):
    """The body passed its limit. Whoever catches it on the way, the answer is 413."""


class BodyLimit:
    """Refuses a body over its limit: by Content-Length before a byte is read, else at the byte that passes it.

    `limit_of(method, path)` is bytes, or None where the handler streams and limits for itself; `refuse` gives
    the answer for a status.
    """

    def __init__(
        self,
        app: Asgi,
        limit_of: Callable[[str, str], int | None],
        refuse: Callable[[Scope, int], Response] | None = None,
    ):
        self._app, self._limit_of = app, limit_of
        self._refuse = refuse or (lambda _, status: status_problem(status))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limit_of(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if limit is None:
            await self._app(scope, receive, send)
            return
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if not declared.isdigit() or int(declared) > limit:
            await self._refuse(scope, 413 if declared.isdigit() else 400)(scope, receive, send)
            return
        got, started, passed = 0, False, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal got, passed
            message = await receive()
            got += len(message.get("body", b""))
            if got > limit:
                passed = True
                raise _TooLarge
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            # A framework that takes every failure to read for a bad request is not believed.
            if started or not passed:
                started = True
                await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLarge:
            if started:
                raise
        if passed and not started:
            await self._refuse(scope, 413)(scope, receive, send)
