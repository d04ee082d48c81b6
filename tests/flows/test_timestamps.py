"""Trusted time on the live system: two authorities made with openssl, and MinIO that locks what they give."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from minio import Minio

from deploy.local.demo import stock_commands
from services.vault.contract import verify, wire
from services.vault.contract.client import VaultClient
from services.vault.keys import read_passphrase
from tests.peers.authority import Authority
from tests.system import System, next_minute, running
from tests.unit.bundles import relist


@pytest.fixture(scope="module")
def authorities() -> Iterator[list[Authority]]:
    folder = Path(tempfile.mkdtemp(prefix="quancheng-tsa-"))
    with Authority(folder / "first") as first, Authority(folder / "second", key="ec") as second:
        yield [first, second]
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def system(authorities: list[Authority], minio_binary: Path) -> Iterator[System]:
    listed = json.dumps([one.listed for one in authorities])
    with running(minio_binary, settings={"QUANCHENG_VAULT_TSAS": listed}) as made:
        yield made


@pytest.fixture
async def vault(system: System, authorities: list[Authority]) -> AsyncIterator[VaultClient]:
    for one in authorities:
        one.mood = "well"
    async with system.vault() as client:
        yield client


def rows(system: System, columns: str, where: str = "true") -> list[list[str]]:
    said = system.stack.postgres.run_sql(f"SELECT {columns} FROM vault.timestamps WHERE {where} ORDER BY size")
    return [line.split("|") for line in said.splitlines() if line]


async def act(vault: VaultClient) -> wire.Appended:
    someone = str(uuid4())
    fields = {"recording": someone, "person": someone, "purpose": "training", "until": "2026-11-23T18:00:00.000Z"}
    return await vault.append(wire.Append(act=uuid4(), kind="viewing", fields=fields))


async def stamped(vault: VaultClient, above: int, seconds: float = 40) -> wire.StampState:
    """The state once a checkpoint with the entry of this index has its token."""
    found = (await vault.log_state()).stamps
    for _ in range(int(seconds * 10)):
        if (found.size or 0) > above:
            return found
        await asyncio.sleep(0.1)
        found = (await vault.log_state()).stamps
    raise AssertionError(found)


async def test_a_published_checkpoint_is_stamped_and_sealed_with_its_token(
    system: System, authorities: list[Authority], vault: VaultClient
) -> None:
    done = await stamped(vault, 0)
    assert done.authorities == [one.url for one in authorities]
    assert done.stamped_at and done.got_at and abs((done.got_at - done.stamped_at).total_seconds()) < 5
    assert done.waiting_since is None
    for _ in range(50):
        if rows(system, "size", "sealed_at IS NOT NULL"):
            break
        await asyncio.sleep(0.1)
    minio = system.stack.minio
    assert minio
    client = Minio(endpoint=minio.endpoint, access_key=minio.access_key, secret_key=minio.secret_key, secure=False)

    def sealed(key: str) -> bytes:
        retention = client.get_object_retention(bucket_name="quancheng-evidence", object_name=key)
        assert retention and retention.mode == "COMPLIANCE"
        with contextlib.closing(client.get_object(bucket_name="quancheng-evidence", object_name=key)) as answer:
            return bytes(answer.read())

    note, token = (sealed(f"timestamps/{done.size:012d}.{end}") for end in ("checkpoint", "tsr"))
    assert verify.verify_note(note.decode(), (await vault.identity()).log_vkey).size == done.size
    certificate = verify.load_certificate(authorities[0].certificate.read_bytes())
    assert verify.verify_timestamp(token, note, certificate) == done.stamped_at
    pinned = sealed(f"timestamps/authorities/{verify.certificate_id(certificate)}.pem")
    assert verify.load_certificate(pinned) == certificate


async def test_there_is_one_a_minute_and_none_while_the_log_stands_still(
    system: System, authorities: list[Authority], vault: VaultClient
) -> None:
    await stamped(vault, 0)
    next_minute(system)
    first = await stamped(vault, (await act(vault)).index)
    count, asked = len(rows(system, "size")), authorities[0].asked
    await act(vault)
    await asyncio.sleep(5)
    if len(rows(system, "size")) == count:  # no minute's end fell into these seconds
        assert authorities[0].asked == asked
    next_minute(system)
    latest = await stamped(vault, first.size or 0)
    next_minute(system)
    await asyncio.sleep(5)
    assert (await vault.log_state()).stamps.size == latest.size


@pytest.mark.parametrize("mood", ["away", "replay", "garbage", "stranger", "refused"])
async def test_an_authority_that_gives_no_good_token_is_passed_over_for_the_next(
    system: System, authorities: list[Authority], vault: VaultClient, mood: str
) -> None:
    await stamped(vault, 0)
    authorities[0].mood = mood
    next_minute(system)
    done = await stamped(vault, (await act(vault)).index)
    (tsa,) = rows(system, "tsa", f"size = {done.size}")[0]
    assert tsa == verify.certificate_id(verify.load_certificate(authorities[1].certificate.read_bytes()))


async def test_while_all_are_away_it_is_tried_again_less_and_less_often_and_said(
    system: System, authorities: list[Authority], vault: VaultClient
) -> None:
    await stamped(vault, 0)
    for one in authorities:
        one.mood = "away"
    next_minute(system)
    old = await act(vault)
    for _ in range(200):
        tries = rows(system, "tries, round(extract(epoch FROM next_try_at - now()))", "token IS NULL")
        if tries and int(tries[-1][0]) >= 2:
            break
        await asyncio.sleep(0.1)
    state = (await vault.log_state()).stamps
    assert state.waiting_since is not None
    assert (state.size or 0) <= old.index
    next_minute(system)
    new = await act(vault)
    for _ in range(100):
        if len(rows(system, "size", "token IS NULL AND next_try_at IS NOT NULL")) == 2:
            break
        await asyncio.sleep(0.1)
    for one in authorities:
        one.mood = "well"
    done = await stamped(vault, new.index)
    assert done.waiting_since is None  # the older one is let go: the newer token says what its own would have


async def test_killed_before_it_was_sealed_a_token_is_sealed_at_the_next_start(
    system: System, vault: VaultClient
) -> None:
    done = await stamped(vault, 0)
    system.stack.postgres.run_sql(f"UPDATE vault.timestamps SET sealed_at = NULL WHERE size = {done.size}")
    assert system.stack.vault
    system.stack.vault.kill()
    await asyncio.to_thread(system.stack.vault.wait_ready)
    for _ in range(100):
        if rows(system, "size", f"size = {done.size} AND sealed_at IS NOT NULL"):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("not sealed")


# --- In an export ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(system: System) -> Path:
    """An export of a recording whose manifest has been stamped."""

    async def wait(index: int) -> None:
        async with system.vault() as vault:
            await stamped(vault, index)

    home = system.new_terminal("stamped")
    said = system.terminal("record", home, "--source", "demo", "--seconds", "3", "--segment-seconds", "1")
    recording = next(event["recording"] for event in said if event["event"] == "recording")
    next_minute(system)
    position = system.stack.postgres.run_sql(
        f"SELECT position FROM vault.log_entries JOIN vault.manifests USING (act) WHERE recording_id = '{recording}'"
    )
    asyncio.run(wait(int(position)))
    return system.export(recording)


def check(bundle: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(bundle / "verify.py"), str(bundle), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_an_export_shows_when_its_recording_was_in_the_log(bundle: Path, authorities: list[Authority]) -> None:
    own = check(bundle)
    assert own.returncode == 0, own.stdout
    assert "证书取自材料本身" in own.stdout
    given = check(bundle, "--tsa", *(one.certificate for one in authorities))
    assert given.returncode == 0, given.stdout
    assert "1 recordings were in the log by 20" in given.stdout


def test_the_stock_commands_in_its_readme_verify_the_tokens(bundle: Path) -> None:
    commands = [one for one in stock_commands(bundle) if one.startswith("openssl ts")]
    assert len(commands) == len(list(bundle.glob("timestamps/*.tsr"))) > 0
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=bundle, capture_output=True, text=True, check=False)
        assert (done.returncode, "Verification: OK" in done.stdout + done.stderr) == (0, True), done.stderr


def test_an_authority_that_is_not_among_those_given_is_not_trusted(
    bundle: Path, authorities: list[Authority], tmp_path: Path
) -> None:
    with Authority(tmp_path / "other") as other:
        done = check(bundle, "--tsa", other.certificate)
    assert done.returncode == 3
    assert "keys/tsa-" in done.stdout


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("pattern", "edit", "code"),
    [
        ("timestamps/*.tsr", _flip, 1),
        ("timestamps/*.tsr", lambda data: data[:-1], 4),
        ("timestamps/*.tsr", None, 2),
        ("timestamps/*.checkpoint", None, 2),
        ("timestamps/*.consistency", None, 2),
        ("timestamps/*.consistency", lambda data: data + b"AAAA\n", 1),
        ("timestamps/*.checkpoint", lambda data: data.replace(b"\n\n", b"0\n\n", 1), 1),
        ("keys/tsa-*.pem", None, 3),
        ("keys/tsa-*.pem", lambda data: b"", 4),
    ],
)
def test_whatever_is_altered_about_a_token_is_noticed(
    bundle: Path, tmp_path: Path, pattern: str, edit: Callable[[bytes], bytes] | None, code: int
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    path = sorted(copy.glob(pattern))[0]
    if edit is None:
        path.unlink()
    else:
        path.write_bytes(edit(path.read_bytes()))
    relist(copy)
    report = verify.verify_bundle(copy)
    assert report.code == code, report
    assert report.subject.startswith(("timestamps/", "keys/tsa-"))


def sign_listing(system: System, bundle: Path) -> None:
    """As only the vault can: by the receipt key that this test's own vault was given."""
    secrets = system.stack.data / "secrets"
    passphrase = read_passphrase(secrets / "vault-keys.passphrase")
    key = load_pem_private_key((secrets / "vault" / "receipt.pem").read_bytes(), password=passphrase)
    assert isinstance(key, Ed25519PrivateKey)
    (bundle / verify.TAG_SIGNATURE).write_bytes(key.sign((bundle / verify.TAG_LISTING).read_bytes()))


def test_a_bundle_without_tokens_says_so_and_is_incomplete_where_they_are_asked_for(
    bundle: Path, authorities: list[Authority], tmp_path: Path, system: System
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    for path in (*copy.glob("timestamps/*"), *copy.glob("keys/tsa-*")):
        path.unlink()
    (copy / "timestamps").rmdir()
    relist(copy)
    sign_listing(system, copy)
    assert check(copy).returncode == 0
    assert check(copy, "--tsa", authorities[0].certificate).returncode == 2


async def test_an_unfit_certificate_stops_the_start_with_one_sentence(
    local_system: System, authorities: list[Authority], tmp_path: Path
) -> None:
    """And without any authority nobody is asked, nothing waits, and an export says that it has no token."""
    async with local_system.vault() as vault:
        state = (await vault.log_state()).stamps
    assert (state.authorities, state.size, state.waiting_since) == ([], None, None)
    leaf = tmp_path / "leaf.pem"
    leaf.write_text(authorities[0].certificate.read_text().split("-----END CERTIFICATE-----")[0])
    for path, said in (
        (tmp_path / "absent.pem", "无法读取"),
        (leaf, "不是有效的 PEM 证书"),
        (authorities[0].certificate.with_name("own.pem"), "直至自签名的根证书"),
    ):
        listed = json.dumps([{"url": "http://127.0.0.1:9/", "certificate": str(path)}])
        environment = local_system.stack.vault_environment() | {"QUANCHENG_VAULT_TSAS": listed}
        environment |= {"QUANCHENG_VAULT_PORT": "1"}
        argv = [sys.executable, "-m", "services.vault"]
        done = await asyncio.to_thread(
            subprocess.run, argv, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        assert said in done.stderr and "Traceback" not in done.stderr
