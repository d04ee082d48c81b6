"""The whole system on one machine: PostgreSQL, perhaps MinIO, vault and api, under one folder.

    with Stack(Path("data"), port=8100) as stack:
        ...  # stack.api_url serves

Vault and api run as their own processes with their own database roles and settings, exactly as they would on
two machines; each is restarted when it dies. What is secret lies in `<data>/secrets` (0700).
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from deploy.local.minio import Minio
from deploy.local.postgres import Postgres
from deploy.local.processes import (
    ROOT,
    LocalError,
    Supervised,
    make_folder,
    read_secrets,
    require_free_port,
)
from migrations.run import SERVICES, upgrade

Report = Callable[[str], None]
T = TypeVar("T")
_NEUTRAL = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "VIRTUAL_ENV", "TMPDIR")


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from plain code, also where the caller's thread has a loop running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class Stack:
    """`port` is the api's; the vault takes the next one and MinIO the one after that."""

    def __init__(
        self,
        data: Path,
        *,
        port: int = 8100,
        minio: Path | None = None,
        report: Report = print,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.data = data.absolute()
        self.port = port
        self.api_url = f"http://127.0.0.1:{port}"
        self.vault_url = f"http://127.0.0.1:{port + 1}"
        self.postgres = Postgres(self.data, report=report)
        self.minio = Minio(self.data, minio, port + 2, report=report) if minio else None
        self._report = report
        self._settings = settings or {}
        self.vault: Supervised | None = None
        self.api: Supervised | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Everything up and ready, or LocalError with one clear sentence."""
        require_free_port(self.port, "全程")
        require_free_port(self.port + 1, "证据库")
        make_folder(self.data / "secrets", 0o700)
        self._one_store()
        if self.minio:
            self.minio.start()
        self.postgres.start()
        run_apart(self._migrate())
        if self.minio:
            self._set_up_store()
        self.vault = self._service("证据库", "vault", self.vault_environment(), self.vault_url)
        self.vault.start()
        self.api = self._service("接口服务", "api", self.api_environment(), self.api_url)
        self.api.start()

    def stop(self) -> None:
        """In the order that lets each finish: api, vault, store, database."""
        for program in (self.api, self.vault, self.minio, self.postgres):
            if program is not None:
                program.stop()

    def vault_environment(self) -> dict[str, str]:
        own = {
            "DSN": self.postgres.dsn("quancheng_vault"),
            "PORT": str(self.port + 1),
            "KEYS": str(self.data / "secrets" / "vault"),
            "KEYS_PASSPHRASE_FILE": str(self._passphrase()),
            "ORIGIN": self._kept("origin.json", lambda: {"origin": f"quancheng.local/{secrets.token_hex(4)}"})[
                "origin"
            ],
            "API_KEY": base64.b64encode(
                self._service_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            ).decode(),
        }
        if self.minio:
            store = self._kept("store.json", _new_store_identities)
            probe = self._kept("store-probe.json", lambda: _new_store_identity("quancheng-probe"))
            own |= {
                "STORE": "s3",
                "S3_ENDPOINT": self.minio.endpoint,
                "S3_SECURE": "false",
                "S3_PUT_ACCESS_KEY": store["put_access"],
                "S3_PUT_SECRET_KEY": store["put_secret"],
                "S3_KEEP_ACCESS_KEY": store["keep_access"],
                "S3_KEEP_SECRET_KEY": store["keep_secret"],
                "S3_PROBE_ACCESS_KEY": probe["access"],
                "S3_PROBE_SECRET_KEY": probe["secret"],
            }
        else:
            own |= {
                "STORE": "local",
                "LOCAL_ROOT": str(self.data / "evidence"),
                "LOCAL_PUBLIC_URL": self.vault_url,
            }
        return self._environment("QUANCHENG_VAULT_", own)

    def api_environment(self) -> dict[str, str]:
        self._service_key()
        own = {
            "DSN": self.postgres.dsn("quancheng_api"),
            "PORT": str(self.port),
            "PUBLIC_URL": self.api_url,
            "VAULT_URL": self.vault_url,
            "SERVICE_KEY": str(self.data / "secrets" / "api-service.pem"),
            "DEMO": "true",
        }
        return self._environment("QUANCHENG_API_", own)

    def _environment(self, prefix: str, own: dict[str, str]) -> dict[str, str]:
        """Nothing of the caller's environment but what a process needs to run, then the service's own."""
        base = {name: os.environ[name] for name in _NEUTRAL if name in os.environ}
        given = {k: v for k, v in self._settings.items() if k.startswith(prefix)}
        return base | {"PYTHONUNBUFFERED": "1"} | {prefix + k: v for k, v in own.items()} | given

    def _service(self, title: str, name: str, environment: dict[str, str], url: str) -> Supervised:
        return Supervised(
            title,
            [sys.executable, "-m", f"services.{name}"],
            environment,
            self.data / "logs" / f"{name}.log",
            f"{url}/healthz",
            report=self._report,
        )

    def _one_store(self) -> None:
        """A folder belongs to the store it was begun with: its log would be another's otherwise."""
        wanted = "minio" if self.minio else "local"
        kept = self._kept("store-kind.json", lambda: {"store": wanted})["store"]
        if kept != wanted:
            hint = "加上 --minio" if kept == "minio" else "去掉 --minio"
            raise LocalError(f"数据文件夹 {self.data} 是用另一种存储建立的，请{hint}，或用 --data 指定别的文件夹。")

    def _kept(self, name: str, make: Callable[[], dict[str, str]]) -> dict[str, str]:
        return read_secrets(self.data / "secrets" / name, make)

    def _service_key(self) -> Ed25519PrivateKey:
        pem = self._kept("api-service.json", _new_service_key)["pem"].encode()
        path = self.data / "secrets" / "api-service.pem"
        if not path.exists():
            temporary = path.with_suffix(".new")
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
            temporary.rename(path)
        key = load_pem_private_key(pem, password=None)
        assert isinstance(key, Ed25519PrivateKey)
        return key

    def _passphrase(self) -> Path:
        """Of the vault's keys; here it lies beside them, which protects a stray copy of the keys and no more."""
        path = self.data / "secrets" / "vault-keys.passphrase"
        if not path.exists():
            temporary = path.with_suffix(".new")
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(30) + "\n")
            temporary.rename(path)
        return path

    async def _migrate(self) -> None:
        for service in SERVICES:
            await upgrade(self.postgres.dsn("quancheng_owner"), service)

    def _set_up_store(self) -> None:
        assert self.minio
        dispose = self._kept("store-dispose.json", lambda: _new_store_identity("quancheng-dispose"))
        environment = self.vault_environment() | {
            "QUANCHENG_STORE_ADMIN_ACCESS_KEY": self.minio.access_key,
            "QUANCHENG_STORE_ADMIN_SECRET_KEY": self.minio.secret_key,
            "QUANCHENG_STORE_DISPOSE_ACCESS_KEY": dispose["access"],
            "QUANCHENG_STORE_DISPOSE_SECRET_KEY": dispose["secret"],
        }
        argv = [sys.executable, "-m", "services.vault", "setup-store"]
        done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["未知原因"])[-1]
            raise LocalError(f"对象存储的存储桶和身份未能建立：{last}")


def _new_store_identities() -> dict[str, str]:
    return {
        "put_access": "quancheng-put",
        "put_secret": secrets.token_urlsafe(30),
        "keep_access": "quancheng-keep",
        "keep_secret": secrets.token_urlsafe(30),
    }


def _new_store_identity(name: str) -> dict[str, str]:
    return {"access": name, "secret": secrets.token_urlsafe(30)}


def _new_service_key() -> dict[str, str]:
    key = Ed25519PrivateKey.generate()
    return {"pem": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()}
