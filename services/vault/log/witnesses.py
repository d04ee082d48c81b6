"""Asking witnesses to cosign a checkpoint (C2SP tlog-witness `add-checkpoint`, tlog-cosignature v1).

A witness remembers the newest checkpoint it cosigned and cosigns another only if it is shown that the log
merely grew, so a log that shows different histories to different people needs as many colluding witnesses as
the policy asks for.

1. The old size is the one we know of the witness; a 409 tells the true one and we ask again with its proof.
2. A cosignature counts once it verifies under the key in the settings, whatever the answer's status said.
3. A witness that does not give one is *away*, with the reason: it is asked again after a while that doubles up
   to a minute, so that publishing does not wait for it each time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx

from services.vault.contract.verify import (
    COSIGNATURE_V1,
    Checkpoint,
    VerificationError,
    VerifierKey,
    parse_checkpoint,
    parse_note,
    parse_vkey,
    verify_cosignatures,
)
from services.vault.log.tree import ReadProof
from services.vault.settings import Witness

_log = logging.getLogger("quancheng.vault.witnesses")
LONGEST_PAUSE = 60
_ANSWER_BYTES = 64 * 1024
AHEAD, INCONSISTENT = "ahead", "inconsistent"
"""Why a witness does not cosign where it is not away: it knows another history."""
_REASONS = {403: "forbidden", 404: "unknown-log", 422: INCONSISTENT}


@dataclass(frozen=True)
class Policy:
    """Which witnesses are asked, and how many of them make a checkpoint good enough."""

    witnesses: tuple[Witness, ...]
    need: int

    @property
    def id(self) -> str:
        """Changes with the policy, so that what met an older one does not pass for meeting this one."""
        text = "\n".join([str(self.need), *sorted(name_of(witness) for witness in self.witnesses)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Away(Exception):
    """No cosignature: the slug says why."""


def name_of(witness: Witness) -> str:
    """The witness's name and key id, which is what a signature line names it by."""
    return witness.vkey.rpartition("+")[0]


def pause(tries: int) -> timedelta:
    """How long to leave a witness alone that has failed so many times in a row."""
    return timedelta(seconds=min(2 ** min(tries, 10), LONGEST_PAUSE))


class Witnesses:
    """Speaks to witnesses; knows nothing of the database. `seconds` bound all that one of them is asked."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._http = httpx.AsyncClient(timeout=seconds, limits=httpx.Limits(max_connections=64))

    async def stop(self) -> None:
        await self._http.aclose()

    async def cosign(self, witness: Witness, note: str, old: int, proof: ReadProof) -> tuple[str, datetime]:
        """The witness's signature line on `note` and its time; `proof(old)` is the consistency proof from an
        older size. Raises Away."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._cosign(witness, note, old, proof)
        except TimeoutError as error:
            raise Away("timeout") from error
        except httpx.HTTPError as error:
            raise Away("unreachable") from error

    async def _cosign(self, witness: Witness, note: str, old: int, proof: ReadProof) -> tuple[str, datetime]:
        ours = parse_checkpoint(parse_note(note).text)
        key = parse_vkey(witness.vkey, COSIGNATURE_V1)
        # 1. With the size that the witness has; between two tries another process may have moved it.
        status, body = 409, str(old if old <= ours.size else 0).encode()
        for _ in range(3):
            if status == 409:
                old = _told_size(body, ours, witness)
                status, body = await self._post(witness, request_body(note, old, await proof(old)))
        # 2. Only a cosignature counts.
        if status != 200:
            raise Away(_REASONS.get(status, "refused"))
        return _line(body, note, key)

    async def _post(self, witness: Witness, body: bytes) -> tuple[int, bytes]:
        url = witness.url.rstrip("/") + "/add-checkpoint"
        async with self._http.stream("POST", url, content=body) as response:
            answer = b""
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) > _ANSWER_BYTES:
                    raise Away("bad-answer")
            return response.status_code, answer


def request_body(note: str, old: int, proof: Sequence[bytes]) -> bytes:
    """The body of `add-checkpoint`: old size, consistency proof, blank line, checkpoint."""
    lines = [f"old {old}", *(base64.b64encode(one).decode() for one in proof), ""]
    return ("\n".join(lines) + "\n" + note).encode()


def _told_size(body: bytes, ours: Checkpoint, witness: Witness) -> int:
    text = body.decode("ascii", "replace").strip()
    if not text.isdigit() or len(text) > 18:
        raise Away("bad-answer")
    if int(text) > ours.size:
        _log.critical(
            "见证人 %s 已联署过 %s 条的检查点，而本日志只有 %d 条：数据库可能是旧备份，日志可能分叉。",
            name_of(witness),
            text,
            ours.size,
        )
        raise Away(AHEAD)
    return int(text)


def _line(body: bytes, note: str, key: VerifierKey) -> tuple[str, datetime]:
    """The one line of the answer that is by `key`, once it verifies on our checkpoint."""
    text = parse_note(note).text
    try:
        answer = body.decode()
        for line in answer.splitlines(keepends=True):
            found = verify_cosignatures(f"{text}\n{line}", [key])
            if key.name in found:
                return line, datetime.fromtimestamp(found[key.name], UTC)
    except (VerificationError, UnicodeDecodeError, OverflowError, ValueError, OSError) as error:
        raise Away("bad-answer") from error
    raise Away("bad-answer")
