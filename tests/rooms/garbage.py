"""What strangers send: for every address of an application, requests that are wrong in one way each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from uuid_utils.compat import uuid7

SLUG = re.compile(r"^[a-z][a-z0-9-]+$")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NUL_FIELDS = (
    *("login", "password", "name", "officer_id", "code", "public_key", "proof", "model", "purpose", "note"),
    *("started_at", "source", "key_id", "recorder", "kind", "act", "person"),
)
JSON_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "cut off": b'{"login": "a',
    "null": b"null",
    "a list": b"[]",
    "a number": b"1",
    "nan": b'{"asks": [NaN], "fields": {"a": NaN}, "started_at": Infinity}',
    "not utf-8": b'{"login": "\xff\xfe"}',
    "half a pair": b'{"\\ud800": "\\ud800", "login": "\\ud800", "password": "\\ud800", "purpose": "other"}',
    "nul everywhere": json.dumps(dict.fromkeys(NUL_FIELDS, "a\0b")).encode(),
    "a nul where text is free": b'{"purpose": "other", "note": "a\\u0000b", "name": "a\\u0000b"}',
    "a sign-in with nul": b'{"login": "a\\u0000b", "password": "a\\u0000b"}',
    "a huge number": b'{"asks": [{"sequence": ' + b"9" * 4000 + b', "size": 1e999}], "started_at": 1e300}',
    "a number beyond parsing": b'{"x": ' + b"9" * 20000 + b"}",
    "deep": b"[" * 20000 + b"]" * 20000,
    "deep inside": b'{"fields": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
}
SEGMENTS_OF_PATHS = ("x", "%00", "..%2f..", "9" * 40, "-1", "0" * 64, "%F0%9F%98%80", "{braces}", "a" * 3000)


@dataclass(frozen=True)
class Route:
    method: str
    path: str

    def filled(self) -> str:
        """An address of the right form where nothing is."""
        return re.sub(r"\{[^}]+\}", lambda found: _well_formed(found[0]), self.path)

    def garbled(self) -> Iterator[str]:
        for place in re.findall(r"\{[^}]+\}", self.path):
            for garbage in SEGMENTS_OF_PATHS:
                once = self.path.replace(place, garbage, 1)
                yield re.sub(r"\{[a-z_]+(?::path)?\}", lambda found: _well_formed(found[0]), once)


def _well_formed(name: str) -> str:
    known = {"{sequence}": "1", "{sha256}": "0" * 64, "{name}": f"1-{'0' * 64}", "{kind}": "m4s"}
    return known.get(name) or ("000" if "path" in name else str(uuid7()))


def routes_of(app: FastAPI) -> list[Route]:
    """Every route, those of included routers with the rest; never an empty list, which would test nothing."""
    found = [Route(method, route.path) for route in _flat(app) for method in sorted(route.methods or ())]
    assert len(found) > 10
    return found


def _flat(routes: Any) -> Iterator[APIRoute]:
    for route in routes.routes:
        if isinstance(route, APIRoute):
            yield route
        elif included := getattr(route, "original_router", None):
            yield from _flat(included)


@dataclass
class Complaints:
    """What was wrong with answers, all of it, so that one run tells everything."""

    found: list[str] = field(default_factory=list)

    def check(self, where: str, status: int, headers: Any, body: bytes, *, page: bool = False) -> None:
        """No answer is a 5xx, and an error is a problem, or a page where pages live."""
        if status >= 500 or status == 0:
            self.found.append(f"{where}: {status} {body[:200]!r}")
        elif status >= 400:
            if where.startswith("HEAD "):
                why = None if headers.get("content-type", "").startswith("application/problem+json") else "no problem"
            else:
                why = not_a_page(status, headers, body) if page else not_a_problem(status, headers, body)
            if why:
                self.found.append(f"{where}: {status}: {why}")


def not_a_problem(status: int, headers: Any, body: bytes) -> str | None:
    kind = headers.get("content-type", "")
    if not kind.startswith("application/problem+json"):
        return f"content type {kind!r}"
    told = json.loads(body)
    if told["status"] != status or told["type"] != f"urn:quancheng:problem:{told['slug']}":
        return f"says {told}"
    if not SLUG.fullmatch(told["slug"]) or not CHINESE.search(told["title"]):
        return f"slug {told['slug']!r}, title {told['title']!r}"
    return None


def not_a_page(status: int, headers: Any, body: bytes) -> str | None:
    kind = headers.get("content-type", "")
    if not kind.startswith("text/html"):
        return f"content type {kind!r}"
    text = body.decode()
    if f'<p class="code">{status}</p>' not in text or "返回音像记录" not in text:
        return "not the page that tells an error"
    return None
