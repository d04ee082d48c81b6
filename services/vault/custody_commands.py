"""What the vault's operator does with custodians and their orders, at the command line.

    custodians                                  the vault's name in orders, those enrolled, and those who were
    enrol-custodian 姓名 公钥 [signed.json]      the first two without an order, any other by order of two
    remove-custodian signed.json
    release signed.json                         解除留存
    dispose [--check] signed.json               销毁: with --check only what would be done, and why not

`signed.json` is an order with the signatures of two custodians (`python -m services.vault.contract.custody`).
`dispose` alone reads the store's identity that deletes, `QUANCHENG_STORE_DISPOSE_ACCESS_KEY` and `…_SECRET_KEY`.
Exit codes: 0 done, 1 refused or not wholly done, 3 keys, store or database are not to be used, 64 wrong call.
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from uuid import UUID

from pydantic import SecretStr, TypeAdapter, ValidationError

from services.vault.contract import custody, wire
from services.vault.disposal import Outcome
from services.vault.errors import VaultError
from services.vault.service import Vault
from services.vault.settings import Settings
from services.vault.stores.local import LocalStore
from services.vault.stores.port import Shredder
from services.vault.stores.s3 import S3Shredder

COMMANDS = ("custodians", "enrol-custodian", "remove-custodian", "release", "dispose")
_MAX_ORDER = 1024 * 1024


async def run(settings: Settings, arguments: list[str]) -> int:
    vault = await Vault.start(settings)
    try:
        return await _run(vault, settings, arguments)
    except VaultError as error:
        print(f"✗ {error.title}{f'（{error.detail}）' if error.detail else ''}", file=sys.stderr)
        return 1
    except (OSError, ValidationError, ValueError) as error:
        print(f"✗ 文件或参数不合规定：{str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    finally:
        await vault.stop()


async def _run(vault: Vault, settings: Settings, arguments: list[str]) -> int:
    match arguments:
        case ["custodians"]:
            print(f"证据库 {vault.keyring.origin}")
            for row in await vault.custodians.listed():
                removed = f"，{wire.rfc3339(row.removed_at)} 撤销" if row.removed_at else ""
                print(f"{row.key_id} {row.name}（{wire.rfc3339(row.enrolled_at)} 登记{removed}）")
        case ["enrol-custodian", name, key, *order] if len(order) <= 1:
            name = TypeAdapter[str](custody.CustodianName).validate_python(name)
            public = base64.b64decode(TypeAdapter[str](custody.PublicKey).validate_python(key), validate=True)
            await vault.custodians.enrol(name, public, _order(order[0]) if order else None)
            print(f"✓ 已登记保管人 {name}")
        case ["remove-custodian", order_file]:
            await vault.custodians.remove(_order(order_file))
            print("✓ 已撤销保管人")
        case ["release", order_file]:
            signed = _order(order_file)
            hold = await vault.holds.release(UUID(str(signed.decoded().get("hold"))), signed)
            print(f"✓ 已解除留存 {hold.id}；{hold.recordings} 份记录中不再受其他留存的，标志随后清除")
        case ["dispose", "--check", order_file]:
            outcomes = await vault.disposer.check(_order(order_file))
            for one in outcomes:
                print(
                    f"{'✗ 不能销毁' if one.why else '· 可以销毁'} {one.recording}{'：' + one.why if one.why else ''}"
                )
            return 1 if any(one.why for one in outcomes) else 0
        case ["dispose", order_file]:
            return await _dispose(vault, _order(order_file), _shredder(vault, settings))
        case _:
            print(__doc__, file=sys.stderr)
            return 64
    return 0


async def _dispose(vault: Vault, order: wire.Envelope, shredder: Shredder) -> int:
    def told(outcome: Outcome) -> None:
        print(outcome.line(), flush=True)

    try:
        outcomes = await vault.disposer.dispose(order, shredder, told)
    finally:
        await shredder.stop()
    done = sum(one.disposed for one in outcomes)
    print(f"共 {len(outcomes)} 项，已销毁 {done} 项。")
    return 0 if done == len(outcomes) else 1


def _order(path: str) -> wire.Envelope:
    file = Path(path)
    if file.stat().st_size > _MAX_ORDER:
        raise ValueError("指令文件过大")
    return wire.Envelope.model_validate_json(file.read_bytes())


def _shredder(vault: Vault, settings: Settings) -> Shredder:
    if isinstance(vault.store, LocalStore):
        return vault.store
    access, secret = (os.environ.get(f"QUANCHENG_STORE_DISPOSE_{part}_KEY") for part in ("ACCESS", "SECRET"))
    if not access or not secret:
        raise ValueError("需要 QUANCHENG_STORE_DISPOSE_ACCESS_KEY 和 QUANCHENG_STORE_DISPOSE_SECRET_KEY")
    return S3Shredder(settings, access, SecretStr(secret))
