"""Make every secret that docker-compose.yml needs: `python -m deploy.secrets DIR HOST STORE_HOST`.

DIR is made (0700) and must be empty: what is there already is never overwritten, since the vault's keys and the
database would no longer fit. HOST is the name people and terminals use, STORE_HOST the one that segments are put to.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

_HOST = re.compile(r"[a-z0-9][a-z0-9.-]{1,200}")
_APP_USER = 10001


def files(folder: Path, host: str, store_host: str) -> dict[str, bytes]:
    """The content of each file, by its name."""
    passwords = {who: secrets.token_urlsafe(30) for who in ("superuser", "owner", "api", "vault")}
    identities = {who: secrets.token_urlsafe(30) for who in ("admin", "put", "keep", "probe", "dispose")}
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def dsn(role: str) -> str:
        return f"postgresql+asyncpg://quancheng_{role}:{passwords[role]}@postgres/quancheng"

    env = {
        ".env": {
            "QUANCHENG_SECRETS": str(folder.absolute()),
            "QUANCHENG_HOST": host,
            "QUANCHENG_STORE_HOST": store_host,
        },
        "postgres.env": {
            "POSTGRES_PASSWORD": passwords["superuser"],
            **{f"QUANCHENG_{who.upper()}_PASSWORD": passwords[who] for who in ("owner", "api", "vault")},
        },
        "minio.env": {"MINIO_ROOT_USER": "quancheng-admin", "MINIO_ROOT_PASSWORD": identities["admin"]},
        "setup.env": {
            "QUANCHENG_OWNER_DSN": dsn("owner"),
            "QUANCHENG_STORE_ADMIN_ACCESS_KEY": "quancheng-admin",
            "QUANCHENG_STORE_ADMIN_SECRET_KEY": identities["admin"],
            "QUANCHENG_STORE_DISPOSE_ACCESS_KEY": "quancheng-dispose",
            "QUANCHENG_STORE_DISPOSE_SECRET_KEY": identities["dispose"],
        },
        "vault.env": {
            "QUANCHENG_VAULT_DSN": dsn("vault"),
            "QUANCHENG_VAULT_KEYS": "/var/lib/quancheng/keys",
            "QUANCHENG_VAULT_KEYS_PASSPHRASE_FILE": "/run/secrets/vault-keys.passphrase",
            "QUANCHENG_VAULT_ORIGIN": host,
            "QUANCHENG_VAULT_API_KEY": base64.b64encode(public).decode(),
            "QUANCHENG_VAULT_STORE": "s3",
            "QUANCHENG_VAULT_S3_ENDPOINT": store_host,
            "QUANCHENG_VAULT_S3_SECURE": "false",
            "QUANCHENG_VAULT_S3_TICKETS_SECURE": "true",
            **{
                f"QUANCHENG_VAULT_S3_{who.upper()}_{part}_KEY": value
                for who in ("put", "keep", "probe")
                for part, value in (("ACCESS", f"quancheng-{who}"), ("SECRET", identities[who]))
            },
        },
        "api.env": {
            "QUANCHENG_API_DSN": dsn("api"),
            "QUANCHENG_API_PUBLIC_URL": f"https://{host}",
            "QUANCHENG_API_SERVICE_KEY": "/run/secrets/api-service.pem",
        },
    }
    made = {name: "".join(f"{k}={v}\n" for k, v in values.items()).encode() for name, values in env.items()}
    made["vault-keys.passphrase"] = secrets.token_urlsafe(30).encode() + b"\n"
    made["api-service.pem"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


def main(arguments: list[str]) -> int:
    if len(arguments) != 3 or not all(_HOST.fullmatch(host) for host in arguments[1:]):
        print(__doc__, file=sys.stderr)
        return 64
    folder = Path(arguments[0])
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            print(f"文件夹 {folder} 不是空的：已有的密钥不会被覆盖。", file=sys.stderr)
            return 1
        for name, content in files(folder, arguments[1], arguments[2]).items():
            with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
            # What is mounted into a container must be readable by the ordinary user that runs there.
            if name in ("vault-keys.passphrase", "api-service.pem") and os.geteuid() == 0:
                os.chown(folder / name, _APP_USER, _APP_USER)
    except OSError as error:
        print(f"文件夹 {folder} 无法使用：{error.strerror}。", file=sys.stderr)
        return 1
    print(f"✓ 已生成，请另行备份 {folder}：丢失 vault-keys.passphrase 就不能再使用证据库的密钥。")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
