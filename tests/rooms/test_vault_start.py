"""A vault does not start where it could not be believed: each fault is told in one sentence, and no secret."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from services.vault import keys
from services.vault.errors import KeyFault
from services.vault.stores.setup import set_up
from tests.rooms.garbage import CHINESE
from tests.rooms.stores import POLICIES, client, s3_settings
from tests.rooms.vaults import published, start_vault
from tests.system import System, free_ports

PASSPHRASE = b"a passphrase for tests"


@pytest.fixture
def environment(local_system: System, tmp_path: Path) -> dict[str, str]:
    """What the local vault was started with, but on copies of its keys and an empty folder."""
    given = local_system.stack.vault_environment()
    folder = tmp_path / "keys"
    shutil.copytree(given["QUANCHENG_VAULT_KEYS"], folder)
    return given | {
        "QUANCHENG_VAULT_KEYS": str(folder),
        "QUANCHENG_VAULT_LOCAL_ROOT": str(tmp_path / "evidence"),
        "QUANCHENG_VAULT_PORT": str(free_ports(1)),
    }


def _refused(environment: dict[str, str], sentence: str) -> str:
    """What the vault said; it ended by itself, with one Chinese sentence and no traceback."""
    done = start_vault(environment)
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "Traceback" not in said
    told = [line for line in said.splitlines() if CHINESE.search(line)]
    assert len(told) == 1, said
    assert sentence in told[0], said
    for name, value in environment.items():
        assert not name.endswith(("SECRET_KEY", "DSN")) or value not in said
    return said


def _another_key(path: Path) -> None:
    fresh = Ed25519PrivateKey.generate()
    path.write_bytes(fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-80])


def _reencrypt(path: Path) -> None:
    key = load_pem_private_key(path.read_bytes(), password=PASSPHRASE)
    other = BestAvailableEncryption(b"another passphrase")
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, other))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "the receipt key is gone": (lambda f: (f / "receipt.pem").unlink(), "丢失"),
    "the log key is gone": (lambda f: (f / "log.pem").unlink(), "丢失"),
    "every key is gone": (shutil.rmtree, "丢失"),
    "a key is open to others": (lambda f: (f / "receipt.pem").chmod(0o644), "对其他用户开放"),
    "the folder is open to others": (lambda f: f.chmod(0o777), "改动"),
    "a key is corrupt": (lambda f: (f / "log.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA"), "损坏"),
    "a key is empty": (lambda f: (f / "receipt.pem").write_bytes(b""), "损坏"),
    "a key is cut short": (lambda f: _cut(f / "receipt.pem"), "损坏"),
    "encrypted under another passphrase": (lambda f: _reencrypt(f / "log.pem"), "口令不对"),
    "another receipt key": (lambda f: _another_key(f / "receipt.pem"), "不是同一把"),
    "another log key": (lambda f: _another_key(f / "log.pem"), "不是同一把"),
    "a key is a folder": (lambda f: _folder_instead(f / "log.pem"), "无法使用|无法读取"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_of_the_keys_is_told_and_nothing_is_made_anew(tmp_path: Path, case: str) -> None:
    folder, (fault, sentence) = tmp_path / "keys", FAULTS[case]
    own = keys.load(folder, "quancheng.test/0", {}, PASSPHRASE)
    known = {"receipt": [own.receipt_public], "log": [own.log_public]}
    assert keys.load(folder, "quancheng.test/0", known, PASSPHRASE).receipt_key_id == own.receipt_key_id
    fault(folder)
    before = sorted(folder.glob("*")) if folder.exists() else []
    with pytest.raises(KeyFault, match=sentence):
        keys.load(folder, "quancheng.test/0", known, PASSPHRASE)
    assert (sorted(folder.glob("*")) if folder.exists() else []) == before


def test_keys_lie_encrypted_and_one_in_the_clear_is_encrypted_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    own = keys.load(folder, "quancheng.test/0", {}, PASSPHRASE)
    for name in ("receipt.pem", "log.pem"):
        with pytest.raises(TypeError):
            load_pem_private_key((folder / name).read_bytes(), password=None)
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    key = load_pem_private_key((folder / "log.pem").read_bytes(), password=PASSPHRASE)
    (folder / "log.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    known = {"receipt": [own.receipt_public], "log": [own.log_public]}
    again = keys.load(folder, "quancheng.test/0", known, PASSPHRASE)
    assert (again.log_vkey, again.local_secret) == (own.log_vkey, own.local_secret)
    assert b"ENCRYPTED" in (folder / "log.pem").read_bytes()


PASSPHRASE_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "it is gone": (lambda p: p.unlink(), "口令文件"),
    "it is open to others": (lambda p: p.chmod(0o604), "对其他用户开放"),
    "it is short": (lambda p: p.write_text("short\n"), "不足"),
    "it is another": (lambda p: p.write_text("not the passphrase of these keys\n"), "口令不对"),
    "it is a folder": (_folder_instead, "无法读取"),
}


@pytest.mark.parametrize("case", PASSPHRASE_FAULTS)
def test_a_fault_of_the_passphrase_is_told(environment: dict[str, str], tmp_path: Path, case: str) -> None:
    fault, sentence = PASSPHRASE_FAULTS[case]
    path = tmp_path / "passphrase"
    shutil.copy(environment["QUANCHENG_VAULT_KEYS_PASSPHRASE_FILE"], path)
    fault(path)
    said = _refused(environment | {"QUANCHENG_VAULT_KEYS_PASSPHRASE_FILE": str(path)}, sentence)
    assert "not the passphrase" not in said


@pytest.mark.parametrize("case", ["the receipt key is gone", "a key is open to others", "another log key"])
def test_without_its_own_keys_the_vault_does_not_start(environment: dict[str, str], case: str) -> None:
    fault, sentence = FAULTS[case]
    fault(Path(environment["QUANCHENG_VAULT_KEYS"]))
    _refused(environment, sentence)


def test_a_folder_that_cannot_be_written_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("a file where the folder should be")
    _refused(environment, "不可用")


def test_an_emptied_log_is_told(local_system: System, environment: dict[str, str]) -> None:
    published(local_system)
    _refused(environment, "没有检查点")


def test_a_checkpoint_by_another_key_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "evidence" / "log").mkdir(parents=True)
    (tmp_path / "evidence" / "log" / "checkpoint").write_text("quancheng.local/other\n0\nAAAA\n\n")
    _refused(environment, "检查点")


def test_a_database_older_than_the_log_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    passphrase = keys.read_passphrase(Path(environment["QUANCHENG_VAULT_KEYS_PASSPHRASE_FILE"]))
    own = keys.load(Path(environment["QUANCHENG_VAULT_KEYS"]), environment["QUANCHENG_VAULT_ORIGIN"], {}, passphrase)
    (tmp_path / "evidence" / "log").mkdir(parents=True)
    (tmp_path / "evidence" / "log" / "checkpoint").write_text(own.checkpoint(10**6, bytes(32)))
    _refused(environment, "旧备份")


def test_a_database_that_is_not_there_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    password = "a-password-that-nobody-may-read"
    dsn = f"postgresql+asyncpg://quancheng_vault:{password}@/quancheng?host={tmp_path}"
    assert password not in _refused(environment | {"QUANCHENG_VAULT_DSN": dsn}, "数据库")


def test_a_setting_that_is_missing_is_named_and_no_secret_is_told(environment: dict[str, str]) -> None:
    given = {name: value for name, value in environment.items() if name != "QUANCHENG_VAULT_ORIGIN"}
    given |= {"QUANCHENG_VAULT_STORE": "s3", "QUANCHENG_VAULT_S3_KEEP_SECRET_KEY": "zzz-secret-zzz"}
    done = start_vault(given)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "origin" in said
    assert "secret-zzz" not in said
    assert "postgresql" not in said


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("plain", "未启用版本控制"),
        ("versioned", "未启用对象锁定"),
        ("missing", "不存在"),
        ("stranger", "对象存储暂不可用"),
        ("silent", "对象存储暂不可用"),
    ],
)
def test_on_an_unfit_store_the_vault_does_not_start(minio_system: System, kind: str, sentence: str) -> None:
    minio = minio_system.stack.minio
    assert minio
    settings = s3_settings(minio, f"unfit-{kind}")
    admin, bucket = client(minio.endpoint, minio.access_key, minio.secret_key), settings.s3_evidence_bucket
    admin.make_bucket(bucket)
    if kind == "versioned":
        admin.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    set_up(settings, minio.access_key, minio.secret_key, POLICIES)
    if kind == "missing":
        admin.remove_bucket(bucket)
    assert settings.s3_put_secret_key and settings.s3_keep_secret_key and settings.s3_probe_secret_key
    secret = settings.s3_keep_secret_key.get_secret_value()
    _refused(
        minio_system.stack.vault_environment()
        | {
            "QUANCHENG_VAULT_PORT": str(free_ports(1)),
            "QUANCHENG_VAULT_S3_ENDPOINT": f"127.0.0.1:{free_ports(1)}" if kind == "silent" else minio.endpoint,
            "QUANCHENG_VAULT_S3_EVIDENCE_BUCKET": bucket,
            "QUANCHENG_VAULT_S3_LOG_BUCKET": settings.s3_log_bucket,
            "QUANCHENG_VAULT_S3_PROBE_BUCKET": settings.s3_probe_bucket,
            "QUANCHENG_VAULT_S3_PROBE_ACCESS_KEY": str(settings.s3_probe_access_key),
            "QUANCHENG_VAULT_S3_PROBE_SECRET_KEY": settings.s3_probe_secret_key.get_secret_value(),
            "QUANCHENG_VAULT_S3_PUT_ACCESS_KEY": str(settings.s3_put_access_key),
            "QUANCHENG_VAULT_S3_PUT_SECRET_KEY": settings.s3_put_secret_key.get_secret_value(),
            "QUANCHENG_VAULT_S3_KEEP_ACCESS_KEY": str(settings.s3_keep_access_key),
            "QUANCHENG_VAULT_S3_KEEP_SECRET_KEY": secret if kind != "stranger" else "not-the-secret-key",
        },
        sentence,
    )
