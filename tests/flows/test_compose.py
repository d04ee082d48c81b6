"""docker-compose.yml, rendered and checked; and its commands with its environment, started by hand."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from uuid_utils.compat import uuid7

from deploy import secrets
from deploy.local.postgres import Postgres
from deploy.local.processes import ROOT
from services.vault.contract import wire
from services.vault.contract.client import VaultClient
from tests.rooms.sealed import open_recording, seal
from tests.system import free_ports

HOST, STORE = "quancheng.example", "store.quancheng.example"
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::\?[^}]*)?\}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("compose") / "secrets"
    assert secrets.main([str(made), HOST, STORE]) == 0
    return made


@pytest.fixture(scope="module")
def services(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = rendered(folder)["services"]
    return found


def rendered(folder: Path) -> dict[str, Any]:
    given = read_env(folder / ".env")

    def value(match: re.Match[str]) -> str:
        return given[match[1]]

    text = _VARIABLE.sub(value, (ROOT / "docker-compose.yml").read_text("utf-8"))
    assert "$" not in text
    told: dict[str, Any] = yaml.safe_load(text)
    return told


def read_env(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def environment(service: dict[str, Any]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for file in service.get("env_file", []):
        merged |= read_env(Path(file))
    merged |= service.get("environment", {})
    return merged


def test_what_is_needed_is_there_and_in_order(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "minio", "setup", "vault", "worker", "api", "api-worker", "proxy", "admin"}
    assert {name for name, service in services.items() if "profiles" in service} == {"admin"}
    for name, service in services.items():
        assert ("build" in service) != bool(re.fullmatch(r"[a-z]+:\d+(\.\d+)+-[a-z]+", service["image"])), name
        for needed in service.get("depends_on", {}):
            assert needed in services
    for context in (ROOT / "deploy" / "Dockerfile", ROOT / "deploy" / "minio" / "Dockerfile"):
        images = re.findall(r"^FROM (\S+)", context.read_text(), re.M)
        assert images and all(re.search(r":[\d.]+|-\d{8}-", image) for image in images)


def test_only_the_proxy_is_reachable_from_outside(services: dict[str, Any], folder: Path) -> None:
    networks = rendered(folder)["networks"]
    assert {name for name, service in services.items() if "ports" in service} == {"proxy"}
    open_ = {name for name, network in networks.items() if not network.get("internal")}
    joined = {name: {each for each, s in services.items() if name in s["networks"]} for name in open_}
    assert joined == {"outer": {"proxy"}, "egress": {"vault", "worker"}}
    assert "data" not in services["proxy"]["networks"]
    caddy = (ROOT / "deploy" / "proxy" / "Caddyfile").read_text()
    assert re.findall(r"reverse_proxy (\S+)", caddy) == ["vault:8101", "api:8100", "minio:80"]


def test_no_secret_is_written_down_and_none_has_a_default(services: dict[str, Any], folder: Path) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"(?i)(password|secret_key|dsn)\s*[:=]\s*['\"]?[\w/+-]{6,}", text)
    known = {value for file in folder.iterdir() for value in file.read_text().split() if len(value) > 30}
    assert not [value for value in known if value in text]
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    again = secrets.files(folder, HOST, STORE)
    assert again["vault.env"] != (folder / "vault.env").read_bytes()
    assert secrets.main([str(folder), HOST, STORE]) == 1
    given = {name: set(environment(service)) for name, service in services.items()}
    # Who may delete versions, and the owner of the tables, are known to what runs for one command alone.
    for name, names in given.items():
        assert name in {"setup", "admin"} or not any("DISPOSE" in each or "OWNER_DSN" in each for each in names)
    assert not given["api"] & given["vault"]


def test_containers_have_as_little_as_they_need(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service and "network_mode" not in service, name
        if name != "postgres":
            assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        if service["restart"] == "unless-stopped":
            assert service["mem_limit"] and service["logging"]["options"]["max-size"], name


def by_hand(page: str) -> list[tuple[list[str], list[str]]]:
    """The `docker compose run` lines of a page: their options, and what runs in the service."""
    text = (ROOT / "docs" / page).read_text().replace("\\\n", "")
    lines = [shlex.split(line) for line in re.findall(r"^docker compose .* run .*$", text, re.M)]
    found = []
    for line in lines:
        at = line.index("admin")
        assert line[:5] == ["docker", "compose", "--env-file", "/srv/quancheng/.env", "run"]
        found.append((line[5:at], line[at + 1 :]))
    return found


def test_what_the_pages_run_by_hand_has_what_it_needs(services: dict[str, Any], folder: Path) -> None:
    admin, given = services["admin"], environment(services["admin"])
    assert [volume.split(":")[1] for volume in admin["volumes"]] == [
        given["QUANCHENG_VAULT_KEYS"],
        given["QUANCHENG_VAULT_KEYS_PASSPHRASE_FILE"],
    ]
    assert admin["networks"] == ["data"]
    for options, command in by_hand("holds.md"):
        (mounted,) = [option for option in options if ":" in option]
        assert command[:4] == ["python", "-m", "services.vault", "dispose"]
        assert command[-1] == mounted.split(":")[1]
        assert {f"QUANCHENG_STORE_DISPOSE_{part}_KEY" for part in ("ACCESS", "SECRET")} <= set(given)
    ((_, command),) = by_hand("recovery.md")
    assert [name for name in re.findall(r"\$(\w+)", command[-1]) if name not in given] == []
    assert len(by_hand("holds.md")) == 2 and len(by_hand("deploy.md")) == 1


def test_the_image_can_make_the_secrets(tmp_path: Path) -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for sources, target in re.findall(
        r"^COPY ((?:services|migrations|deploy)\S*(?: \S+)*) (\./\S*)$", dockerfile, re.M
    ):
        for source in sources.split():
            into = tmp_path / target / (Path(source).name if target.endswith("/") else "")
            into.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, into)
    argv = [sys.executable, "-m", "deploy.secrets", str(tmp_path / "made"), HOST, STORE]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / ".env").exists()


# --- by hand ---


class Hand:
    """The services of the rendered file as processes of this machine: the same commands and environment, with the
    containers' names and paths put into this machine's."""

    def __init__(self, services: dict[str, Any], folder: Path, tmp: Path, postgres: Postgres):
        self._services, self._folder, self._tmp, self._postgres = services, folder, tmp, postgres
        self.minio, self.vault, self.api = (free_ports(1) for _ in range(3))
        self._kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}

    def composed(self, name: str) -> dict[str, str]:
        """As the file has it."""
        return environment(self._services[name])

    def environment(self, name: str) -> dict[str, str]:
        told = self.composed(name)
        here = {
            "QUANCHENG_OWNER_DSN": self._postgres.dsn("quancheng_owner"),
            "QUANCHENG_VAULT_DSN": self._postgres.dsn("quancheng_vault"),
            "QUANCHENG_API_DSN": self._postgres.dsn("quancheng_api"),
            "QUANCHENG_VAULT_S3_ENDPOINT": f"127.0.0.1:{self.minio}",
            "QUANCHENG_VAULT_S3_TICKETS_SECURE": "false",
            "QUANCHENG_VAULT_KEYS": str(self._tmp / "keys"),
            "QUANCHENG_VAULT_KEYS_PASSPHRASE_FILE": str(self._folder / "vault-keys.passphrase"),
            "QUANCHENG_VAULT_HOST": "127.0.0.1",
            "QUANCHENG_API_HOST": "127.0.0.1",
            "QUANCHENG_API_VAULT_URL": f"http://127.0.0.1:{self.vault}",
            "QUANCHENG_API_SERVICE_KEY": str(self._folder / "api-service.pem"),
            "QUANCHENG_API_PUBLIC_URL": f"http://127.0.0.1:{self.api}",
        }
        ports = {"QUANCHENG_VAULT_PORT": str(self.vault), "QUANCHENG_API_PORT": str(self.api)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}"
        return told | {k: v for k, v in here.items() if k in told} | ports | self._kept | {"PATH": path}

    def command(self, name: str) -> list[str]:
        told = [str(part) for part in self._services[name]["command"]]
        return [sys.executable, *told[1:]] if told[0] == "python" else told

    @contextmanager
    def running(self, name: str, argv: list[str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        with (self._tmp / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                argv or self.command(name), env=self.environment(name), cwd=ROOT, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, name: str) -> str:
        return (self._tmp / f"{name}.log").read_text()


def ready(url: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail(f"{url} did not answer")


async def test_the_same_commands_with_the_same_environment_seal_and_hold(
    services: dict[str, Any], folder: Path, tmp_path: Path, minio_binary: Path
) -> None:
    key = load_pem_private_key((folder / "api-service.pem").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    with ExitStack() as stack:
        postgres = Postgres(tmp_path / "database")
        postgres.start()
        stack.callback(postgres.stop)
        hand = Hand(services, folder, tmp_path, postgres)
        argv = hand.command("minio")
        argv = [str(minio_binary), *argv[:1], str(tmp_path / "data"), "--address", f"127.0.0.1:{hand.minio}"]
        minio = stack.enter_context(hand.running("minio", argv))
        await asyncio.to_thread(ready, f"http://127.0.0.1:{hand.minio}/minio/health/ready", minio)
        done = await asyncio.to_thread(
            subprocess.run,
            hand.command("setup"),
            env=hand.environment("setup"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        vault = stack.enter_context(hand.running("vault"))
        await asyncio.to_thread(ready, f"http://127.0.0.1:{hand.vault}/healthz", vault)
        api = stack.enter_context(hand.running("api"))
        await asyncio.to_thread(ready, f"http://127.0.0.1:{hand.api}/healthz", api)
        async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as browser:
            assert (await browser.get(f"http://127.0.0.1:{hand.api}/", headers={"accept": "text/html"})).is_success

        async with VaultClient(f"http://127.0.0.1:{hand.vault}", key) as client:
            recording = await open_recording(client)
            await seal(client, recording, [b"one", b"two"])
            assert (await client.identity()).lock == "compliance"
            held = wire.PlaceHold(case=uuid7(), reason="行政诉讼", recordings=[recording])
            hold = (await client.hold(uuid7(), held)).id
            # The vault that serves leaves the jobs to the worker.
            await asyncio.sleep(2)
            assert (await client.hold_state(hold)).settled == 0
            worker = stack.enter_context(hand.running("worker"))
            async with asyncio.timeout(60):
                while (await client.hold_state(hold)).settled < 2:
                    assert worker.poll() is None, hand.log("worker")
                    await asyncio.sleep(0.1)
            # The api's acts are told by its own worker where the api itself did not.
            api_worker = stack.enter_context(hand.running("api-worker"))
            async with asyncio.timeout(60):
                while "后台任务已开始" not in hand.log("api-worker"):
                    assert api_worker.poll() is None, hand.log("api-worker")
                    await asyncio.sleep(0.1)
        told = {"deploy.md": (0, "证据库 "), "recovery.md": (3, "证据库仍在运行"), "holds.md": (1, "signed.json")}
        for page, (code, word) in told.items():
            _, argv = by_hand(page)[0]
            argv = [sys.executable if part == "python" else part for part in argv]
            done = await asyncio.to_thread(
                subprocess.run,
                argv,
                env=hand.environment("admin"),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert (done.returncode, word in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
        for name in ("vault", "worker", "api", "api-worker"):
            assert "Traceback" not in hand.log(name), hand.log(name)
