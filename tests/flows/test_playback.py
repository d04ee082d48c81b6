"""Watching: registered and logged first, live while it is recorded, and byte for byte what was sealed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient
from tests.flows.evidence import assert_log_is_whole, eventually, export, log_vkey
from tests.flows.live import SECOND_BY_SECOND, LiveTerminal
from tests.system import System

SEGMENT = re.compile(r"segments/(\d+)-([0-9a-f]{64})\.(mp4|m4s)")
USE = {"purpose": "spot-check"}


@dataclass
class Watched:
    """What the supervisor saw of a recording while it ran and once it was closed."""

    system: System
    home: Path
    recording: str
    viewing: dict[str, Any]
    proof_before_the_first_byte: wire.LogProof
    live_playlists: list[str]
    asked_for: int
    """The segment that the last of the live playlists was to wait for."""
    live_bytes: dict[int, bytes]
    closed_playlist: str
    closed_bytes: dict[int, bytes]


@pytest.fixture(scope="module")
def watched(system: System) -> Watched:
    home = system.new_terminal("playback")
    with (
        LiveTerminal(system, home, "record", *SECOND_BY_SECOND, "--seconds", "7") as terminal,
        system.sign_in("li") as li,
    ):
        recording = terminal.recording
        terminal.wait_for("sealed", 3)
        viewing = register(li, recording)
        proof = proof_of(system, viewing["id"])
        first = playlist(li, viewing)
        wanted = max(sequences(first)) + 2
        blocked = playlist(li, viewing, _HLS_msn=wanted)
        live = fetch(li, viewing, blocked)
        assert terminal.finish() == 0, terminal.said
        closed_playlist = playlist(li, viewing)
        whole = register(li, recording)
        closed = fetch(li, whole, playlist(li, whole))
    return Watched(system, home, recording, viewing, proof, [first, blocked], wanted, live, closed_playlist, closed)


def register(client: httpx.Client, recording: str) -> dict[str, Any]:
    answer = client.post(f"/v1/recordings/{recording}/viewings", json=USE)
    answer.raise_for_status()
    viewing: dict[str, Any] = answer.json()
    return viewing


def playlist(client: httpx.Client, viewing: dict[str, Any], **query: int) -> str:
    answer = client.get(viewing["playlist"], params=query)
    answer.raise_for_status()
    assert answer.headers["content-type"] == "application/vnd.apple.mpegurl"
    return answer.text


def sequences(text: str) -> list[int]:
    return [int(sequence) for sequence, _, _ in SEGMENT.findall(text)]


def fetch(client: httpx.Client, viewing: dict[str, Any], text: str) -> dict[int, bytes]:
    """Every segment a playlist lists, each the bytes its name says."""
    got = {}
    for match in SEGMENT.finditer(text):
        answer = client.get(str(httpx.URL(viewing["playlist"]).join(match[0])))
        answer.raise_for_status()
        assert hashlib.sha256(answer.content).hexdigest() == match[2]
        got[int(match[1])] = answer.content
    return got


def proof_of(system: System, act: str) -> wire.LogProof:
    """The act's proof in a published checkpoint, asked of the vault with the api's own service key."""
    key = load_pem_private_key((system.stack.data / "secrets" / "api-service.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)

    async def ask() -> wire.LogProof:
        async with VaultClient(system.stack.vault_url, key) as vault:
            return await vault.proof(UUID(act))

    def in_what_is_published() -> wire.LogProof | None:
        proof = asyncio.run(ask())
        published = httpx.get(f"{system.stack.vault_url}/log/checkpoint", timeout=10, trust_env=False).text
        return proof if verify.parse_proof(proof.proof).checkpoint == published else None

    return eventually(in_what_is_published, "the viewing is in a published checkpoint")


def test_a_viewing_is_in_the_published_log_before_its_first_byte(watched: Watched) -> None:
    proof = verify.parse_proof(watched.proof_before_the_first_byte.proof)
    salt, statement = proof.extra[:32], proof.extra[32:]
    verify.verify_proof(proof, verify.statement_leaf(salt, statement), log_vkey(watched.system))
    said = json.loads(statement)
    assert said["kind"] == "viewing"
    assert said["act"] == watched.viewing["id"]
    assert said["recording"] == watched.recording
    assert said["purpose"] == USE["purpose"]
    assert said["until"] == wire.rfc3339(datetime.fromisoformat(watched.viewing["until"]))
    person = watched.system.stack.postgres.run_sql("SELECT id FROM api.people WHERE login = 'li'").strip()
    assert said["person"] == person


def test_a_live_playlist_grows_while_it_is_recorded(watched: Watched) -> None:
    first, blocked = watched.live_playlists
    for text in (first, blocked):
        assert "#EXT-X-ENDLIST" not in text
        assert "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES" in text
        listed = sequences(text)
        assert listed == list(range(len(listed))), "the init segment, then media in order"
        assert text.count("#EXT-X-PROGRAM-DATE-TIME:") == text.count("#EXTINF:") == len(listed) - 1
        longest = max(float(seconds) for seconds in re.findall(r"#EXTINF:([\d.]+),", text))
        target = re.search(r"#EXT-X-TARGETDURATION:(\d+)", text)
        assert target
        assert round(longest) <= int(target[1])
    assert set(sequences(first)) < set(sequences(blocked))


def test_a_blocking_reload_answers_once_the_segment_is_there(watched: Watched) -> None:
    first, blocked = watched.live_playlists
    assert watched.asked_for not in sequences(first)
    assert watched.asked_for in sequences(blocked)


def test_a_playlist_ends_once_the_recording_is_closed(watched: Watched) -> None:
    assert watched.closed_playlist.endswith("#EXT-X-ENDLIST\n")
    assert max(sequences(watched.closed_playlist)) == 7


def test_what_is_played_is_what_was_sealed(watched: Watched) -> None:
    bundle = export(watched.system, watched.home, watched.recording)
    assert b"".join(watched.closed_bytes[n] for n in sorted(watched.closed_bytes)) == bundle.media.read_bytes()
    for sequence, data in watched.live_bytes.items():
        assert data == watched.closed_bytes[sequence], "live and later are the same objects"
    assert_log_is_whole(watched.system)


def test_without_a_viewing_there_is_no_playlist(watched: Watched) -> None:
    with watched.system.sign_in("li") as li:
        for viewing in (uuid4(), watched.recording):
            refused = li.get(f"/v1/viewings/{viewing}/index.m3u8")
            assert_problem(refused, 404, "no-such-viewing")
            name = SEGMENT.findall(watched.closed_playlist)[0]
            segment = li.get(f"/v1/viewings/{viewing}/segments/{name[0]}-{name[1]}.mp4")
            assert_problem(segment, 404, "no-such-viewing")


def test_nobody_watches_without_signing_in(watched: Watched) -> None:
    with httpx.Client(base_url=watched.system.stack.api_url, trust_env=False) as stranger:
        assert_problem(stranger.get(watched.viewing["playlist"]), 401, "not-signed-in")
        segment = str(httpx.URL(watched.viewing["playlist"]).join(paths(watched.closed_playlist)[0]))
        assert_problem(stranger.get(segment), 401, "not-signed-in")
        register_one = stranger.post(f"/v1/recordings/{watched.recording}/viewings", json=USE)
        assert_problem(register_one, 401, "not-signed-in")


def test_another_persons_viewing_is_nobody_elses(watched: Watched) -> None:
    with watched.system.sign_in("wang") as wang:
        assert wang.get(f"/v1/recordings/{watched.recording}").status_code == 200, "it is the officer's own recording"
        assert_problem(wang.get(watched.viewing["playlist"]), 404, "no-such-viewing")
        segment = str(httpx.URL(watched.viewing["playlist"]).join(paths(watched.closed_playlist)[0]))
        assert_problem(wang.get(segment), 404, "no-such-viewing")


def test_a_lapsed_viewing_shows_nothing_more(watched: Watched) -> None:
    with watched.system.sign_in("li") as li:
        viewing = register(li, watched.recording)
        text = playlist(li, viewing)
        watched.system.stack.postgres.run_sql(
            f"UPDATE api.viewings SET until = now() - interval '1 second' WHERE id = '{viewing['id']}'"
        )
        assert_problem(li.get(viewing["playlist"]), 403, "viewing-lapsed")
        segment = str(httpx.URL(viewing["playlist"]).join(paths(text)[0]))
        assert_problem(li.get(segment), 403, "viewing-lapsed")


def test_a_segment_that_is_not_the_recordings_is_not_found(watched: Watched) -> None:
    with watched.system.sign_in("li") as li:
        viewing = register(li, watched.recording)
        base = f"/v1/viewings/{viewing['id']}/segments"
        assert_problem(li.get(f"{base}/1-{'0' * 64}.m4s"), 404, "no-such-segment")
        assert_problem(li.get(f"{base}/9999999999-{'0' * 64}.m4s"), 404, "no-such-segment")


def test_an_administrator_sees_no_recording_and_registers_no_viewing(watched: Watched) -> None:
    with watched.system.sign_in("admin") as admin:
        listed = admin.get("/v1/recordings")
        assert listed.status_code == 403 or listed.json()["items"] == []
        assert watched.recording not in admin.get("/recordings").text
        place = f"/v1/recordings/{watched.recording}"
        for refused in (
            admin.get(place),
            admin.get(f"{place}/segments"),
            admin.post(f"{place}/viewings", json=USE),
            admin.post("/v1/exports", json={**USE, "recordings": [watched.recording]}),
        ):
            # Forbidden or not there: which of the two is not promised.
            assert_problem(
                refused, *(404, "no-such-recording") if refused.status_code == 404 else (403, "not-permitted")
            )
    registered = watched.system.stack.postgres.run_sql(
        "SELECT count(*) FROM api.viewings v JOIN api.people p ON p.id = v.person_id WHERE p.login = 'admin'"
    )
    assert registered.strip() == "0"


@pytest.mark.parametrize("system", ["minio"], indirect=True)
def test_without_the_vault_a_viewing_takes_no_effect_and_takes_it_once_the_vault_is_back(watched: Watched) -> None:
    vault, postgres = watched.system.stack.vault, watched.system.stack.postgres
    assert vault
    with watched.system.sign_in("li") as li:
        vault.stop()
        try:
            refused = li.post(f"/v1/recordings/{watched.recording}/viewings", json=USE)
            assert_problem(refused, 503, "vault-unavailable")
            assert refused.headers["retry-after"]
            # The act is on record and has no effect: even who guessed its id gets no playlist.
            newest = postgres.run_sql("SELECT id FROM api.viewings ORDER BY at DESC LIMIT 1").strip()
            assert newest not in refused.text
            assert_problem(li.get(f"/v1/viewings/{newest}/index.m3u8"), 404, "no-such-viewing")
            exported = li.post("/v1/exports", json={**USE, "recordings": [watched.recording]})
            assert_problem(exported, 503, "vault-unavailable")
        finally:
            vault.start()
        # Told again by the api itself.
        told = f"SELECT log_index FROM api.outbox WHERE act = '{newest}'"
        eventually(lambda: postgres.run_sql(told).strip(), "the act is told once the vault is back", 30)
        assert li.get(f"/v1/viewings/{newest}/index.m3u8").status_code == 200


@pytest.mark.parametrize("system", ["local"], indirect=True)
def test_a_vault_that_hangs_gives_no_viewing_either(watched: Watched) -> None:
    """Stopped in mid-air: it accepts connections and never answers."""
    vault = watched.system.stack.vault
    assert vault
    assert vault.pid
    with watched.system.sign_in("li") as li:
        os.kill(vault.pid, signal.SIGSTOP)
        try:
            refused = li.post(f"/v1/recordings/{watched.recording}/viewings", json=USE)
            assert_problem(refused, 503, "vault-unavailable")
        finally:
            os.kill(vault.pid, signal.SIGCONT)


def paths(text: str) -> list[str]:
    return [match[0] for match in SEGMENT.finditer(text)]


def assert_problem(answer: httpx.Response, status: int, slug: str) -> None:
    """RFC 9457, with a slug for programs and a Chinese sentence for people."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    told = answer.json()
    assert (answer.status_code, told["status"], told["slug"]) == (status, status, slug)
    assert re.search(r"[\u4e00-\u9fff].*。$", told["title"])
