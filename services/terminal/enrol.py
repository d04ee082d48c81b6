"""Enrolment: the terminal makes its key, proves that it holds it, and pins the vault it is told of."""

from __future__ import annotations

import asyncio
import base64
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from services.terminal.api import CONNECT_SECONDS, Backoff, CallFailed, Refused, Unreachable, refusal
from services.terminal.home import Enrolled, Home, TerminalError, public_text
from services.vault.contract import verify, wire
from services.vault.contract.channel import raw_public

_CONTEXT = b"quancheng-enrolment-v1\n"
_ATTEMPTS = 5
_ANSWER_SECONDS = 20.0


class EnrolmentFailed(TerminalError):
    """The api did not enrol this terminal; the same code may be used again by the same terminal."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)

    recorder: UUID
    name: str
    key_id: wire.KeyId
    vault: wire.VaultIdentity


async def enrol(home: Home, *, api: str, code: str, model: str) -> Enrolled:
    """Enrol once and for all. An attempt whose answer was lost may be repeated: key and code stay the same.

    Raises AlreadyEnrolled (nothing is overwritten), HomeUnusable and EnrolmentFailed.
    """
    try:
        url = httpx.URL(api.rstrip("/"))
    except httpx.InvalidURL as error:
        raise EnrolmentFailed(f"服务器地址有误：{api}。") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise EnrolmentFailed(f"服务器地址应以 http:// 或 https:// 开头：{api}。")
    key = home.new_key()
    message = {
        "code": code,
        "public_key": public_text(key),
        "proof": base64.b64encode(key.sign(_CONTEXT + code.encode("ascii", "replace"))).decode(),
        "model": model,
    }
    answer = await _ask(str(url), message)
    enrolled = Enrolled(api=str(url), model=model, **answer.model_dump())
    if enrolled.key_id != verify.key_id(raw_public(key)):
        raise EnrolmentFailed("服务器登记的不是本终端的密钥，登记未采信。")
    try:
        enrolled.receipt_keys()
    except ValueError as error:
        raise EnrolmentFailed("服务器给出的证据库密钥与其编号不符，登记未采信。") from error
    home.keep(enrolled)
    return enrolled


async def _ask(url: str, message: dict[str, str]) -> _Answer:
    backoff = Backoff()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await _post(url, message)
        except CallFailed as error:
            refused = isinstance(error, Refused) and error.problem.status < 500 and error.problem.status != 429
            if refused or attempt == _ATTEMPTS:
                raise EnrolmentFailed(f"登记未完成：{error}。") from error
            await asyncio.sleep(backoff.next(error.retry_after))
    raise AssertionError("the loop above returns or raises")


async def _post(url: str, message: dict[str, str]) -> _Answer:
    timeout = httpx.Timeout(_ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False) as client:
            response = await client.post("/v1/enrolments", json=message)
    except httpx.HTTPError as error:
        raise Unreachable(f"连接不上服务器（{type(error).__name__}）") from error
    if not response.is_success:
        raise refusal(response)
    try:
        return _Answer.model_validate_json(response.content)
    except ValidationError as error:
        raise Unreachable("服务器的回答不合约定") from error
