"""At the vault's own door: a recorder's revoked key opens, asks and closes nothing, and what it sealed stays."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from uuid_utils.compat import uuid7

from services.terminal.closing import root_of, signed_closing
from services.vault.contract import verify, wire
from services.vault.contract.channel import raw_public
from services.vault.contract.client import VaultClient, VaultRefused
from tests.rooms.sealed import ask
from tests.system import System


@pytest.fixture
async def vault(system: System) -> AsyncIterator[VaultClient]:
    async with system.vault() as client:
        yield client


class Recorder:
    """An enrolled key with an open recording."""

    def __init__(self, vault: VaultClient):
        self.vault, self.key, self.id, self.recording = vault, Ed25519PrivateKey.generate(), uuid7(), uuid7()
        self.key_id = verify.key_id(raw_public(self.key))
        self.began = datetime.now(UTC)

    async def enrol(self) -> wire.Appended:
        public = base64.b64encode(raw_public(self.key)).decode()
        return await self.vault.enrol(wire.Enrol(recorder=self.id, public_key=public))

    async def open(self, recording: UUID) -> None:
        opening = wire.OpenRecording(source=self.id, key_id=self.key_id, started_at=self.began)
        await self.vault.open(recording, opening)

    async def revoke(self, recorder: UUID | None = None, *, reason: str = "巡查途中遗失") -> wire.Appended:
        message = wire.RevokeEnrolment(recorder=recorder or self.id, code="lost", reason=reason)
        return await self.vault.revoke_enrolment(self.key_id, message)

    async def put(self, sequence: int) -> wire.SegmentAsk:
        """Asked for and put, and not committed."""
        data = os.urandom(64)
        asked = ask(sequence, data)
        (ticket,) = (await self.vault.exchange(self.recording, wire.ExchangeRequest(asks=[asked]))).tickets
        async with httpx.AsyncClient(trust_env=False) as store:
            (await store.put(ticket.url, content=data, headers=ticket.headers)).raise_for_status()
        return asked

    async def commit(self, asked: wire.SegmentAsk) -> wire.ExchangeResult:
        name = wire.SegmentName(sequence=asked.sequence, sha256=asked.sha256)
        return await self.vault.exchange(self.recording, wire.ExchangeRequest(commits=[name]))

    async def close(self, asks: list[wire.SegmentAsk]) -> wire.ClosedRecording:
        now = wire.rfc3339(datetime.now(UTC))
        closing = {
            "recording": str(self.recording),
            "count": len(asks),
            "root": root_of((one.sequence, one.sha256, one.size) for one in asks),
            "missing": [],
            "started_at": now,
            "ended_at": now,
            "interrupted": False,
        }
        request = wire.CloseRecording(closing=signed_closing(closing, self.key))
        return await self.vault.close(self.recording, request)


@pytest.fixture
async def recorder(vault: VaultClient) -> Recorder:
    made = Recorder(vault)
    await made.enrol()
    await made.open(made.recording)
    return made


def refuses(slug: str) -> pytest.RaisesExc[VaultRefused]:
    return pytest.raises(VaultRefused, match=f"^{slug}$")


async def test_a_revoked_key_opens_asks_and_closes_nothing_and_what_it_had_put_is_sealed(recorder: Recorder) -> None:
    first, late = await recorder.put(0), await recorder.put(1)
    assert (await recorder.commit(first)).sealed
    await recorder.revoke()
    with refuses("key-revoked"):
        await recorder.open(uuid7())
    with refuses("key-revoked"):
        await recorder.open(recorder.recording)
    with refuses("key-revoked"):
        await recorder.enrol()
    asked = [ask(2, b"new"), ask(0, b"another")]
    answer = await recorder.vault.exchange(recorder.recording, wire.ExchangeRequest(asks=[*asked, late]))
    assert [one.slug for one in answer.problems] == ["key-revoked"] * 3
    with refuses("key-revoked"):
        await recorder.close([first])
    assert (await recorder.commit(late)).sealed
    closed = await recorder.vault.close_by_server(recorder.recording, wire.CloseByServer(reason="revoked"))
    assert (closed.closed_by, closed.segments) == ("server", 2)
    assert closed.manifest.decoded()["reason"] == "revoked"
    # As always: what is closed is answered as it is.
    again = await recorder.vault.close_by_server(recorder.recording, wire.CloseByServer(reason="lost"))
    assert again == closed


async def test_revoking_again_answers_the_same_index_and_the_log_tells_once(
    system: System, recorder: Recorder
) -> None:
    answers = await asyncio.gather(*(recorder.revoke(reason=f"理由 {n}") for n in range(4)))
    assert len({(one.act, one.index) for one in answers}) == 1
    proof = await recorder.vault.proof(answers[0].act)
    assert (proof.statement["kind"], proof.statement["key_id"]) == ("revocation", recorder.key_id)
    assert proof.statement["recorder"] == str(recorder.id)
    told = system.stack.postgres.run_sql(
        f"SELECT count(*) FROM vault.log_entries WHERE act = '{answers[0].act}'"
    ).strip()
    assert told == "1"


async def test_only_a_key_that_this_recorder_has_is_revoked(recorder: Recorder) -> None:
    with refuses("no-such-enrolment"):
        await recorder.revoke(uuid7())
    with refuses("no-such-enrolment"):
        message = wire.RevokeEnrolment(recorder=recorder.id, code="lost", reason="没有这一把")
        await recorder.vault.revoke_enrolment("0" * 64, message)
    await recorder.put(0)


async def test_a_key_that_is_not_revoked_is_not_closed_as_if_it_were(recorder: Recorder) -> None:
    assert (await recorder.commit(await recorder.put(0))).sealed
    with refuses("source-not-idle"):
        await recorder.vault.close_by_server(recorder.recording, wire.CloseByServer(reason="revoked"))


async def test_a_closing_and_a_revocation_that_race_stand_in_the_log_in_one_order(vault: VaultClient) -> None:
    """Either the manifest is told before the revocation, or the closing is refused."""
    outcomes, refused = set(), set[str]()
    for turn in range(8):
        recorder = Recorder(vault)
        await recorder.enrol()
        await recorder.open(recorder.recording)
        pieces = [await recorder.put(n) for n in range(2)]
        for piece in pieces:
            await recorder.commit(piece)

        async def closed(recorder: Recorder = recorder, pieces: list[wire.SegmentAsk] = pieces) -> UUID | None:
            try:
                return (await recorder.close(pieces)).log_act
            except VaultRefused as error:
                refused.add(error.problem.slug)
                return None

        async def revoked(recorder: Recorder = recorder, wait: float = turn * 0.004) -> wire.Appended:
            await asyncio.sleep(wait)
            return await recorder.revoke()

        act, told = await asyncio.gather(closed(), revoked())
        outcomes.add(act is not None)
        if act is not None:
            assert (await vault.proof(act)).index < told.index
    assert outcomes
    assert refused <= {"key-revoked"}
