"""`python -m services.vault` serves. Beside it:

    work          do the jobs, for a vault that serves with QUANCHENG_VAULT_WORK=false
    setup-store   make buckets and identities; may be run again at any time
    check-store   attack the store as every start does, one line a check; 0 if all held, 1 if not, 2 if it is away
    rebuild       make the database anew from the bucket, as its owner; see `services.vault.rebuild`
    custodians | enrol-custodian | remove-custodian | release | dispose   see `services.vault.custody_commands`
    keys | rotate-key | retire-key | revoke-key                 see `services.vault.key_commands`
    alarms | jobs | retry-job | log-state                       see `services.vault.status_commands`

`setup-store` alone reads the store administrator's `QUANCHENG_STORE_ADMIN_ACCESS_KEY` and `…_SECRET_KEY`, and
makes the identity that deletes versions where `QUANCHENG_STORE_DISPOSE_ACCESS_KEY` and `…_SECRET_KEY` are set.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import SecretStr, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from services.vault import custody_commands, key_commands, rebuild, status_commands
from services.vault.app import create_app
from services.vault.contract.http import Asgi, Receive, Scope, Send
from services.vault.errors import CertificateFault, HistoryLost, KeyFault, StoreUnfit, VaultError
from services.vault.service import Vault
from services.vault.settings import Settings
from services.vault.stores import conformance, folder, open_store
from services.vault.stores.setup import set_up

_POLICIES = Path(__file__).parents[2] / "deploy" / "policies"


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"证据库设置有误：{error}", file=sys.stderr)
        return 64
    if sys.argv[1:] == ["setup-store"]:
        return _set_up_store(settings)
    if sys.argv[1:] == ["check-store"]:
        return asyncio.run(_check_store(settings))
    if sys.argv[1:] == ["work"]:
        return asyncio.run(_work(settings))
    if sys.argv[1:2] and sys.argv[1] in custody_commands.COMMANDS:
        return asyncio.run(_command(custody_commands.run(settings, sys.argv[1:])))
    if sys.argv[1:2] and sys.argv[1] in key_commands.COMMANDS:
        return asyncio.run(_command(key_commands.run(settings, sys.argv[1:])))
    if sys.argv[1:2] and sys.argv[1] in status_commands.COMMANDS:
        return asyncio.run(_command(status_commands.run(settings, sys.argv[1:])))
    if sys.argv[1:2] == ["rebuild"]:
        return asyncio.run(_command(rebuild.run(settings, sys.argv[2:])))
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 64
    uvicorn.run(
        _plainly(create_app(settings)),
        host=settings.host,
        port=settings.port,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_level="info",
    )
    return 0


def _plainly(app: Asgi) -> Asgi:
    """A start that was refused for a reason we know says that reason in one sentence, and no traceback."""

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        started = False

        async def passed_on(message: Scope) -> None:
            nonlocal started
            started = started or message["type"] == "lifespan.startup.complete"
            if message["type"] != "lifespan.startup.failed":
                await send(message)

        try:
            await app(scope, receive, passed_on)
        except Exception as error:
            if started:
                raise
            await send({"type": "lifespan.startup.failed", "message": _sentence(error)})

    return told


async def _command(running: Coroutine[Any, Any, int]) -> int:
    try:
        return await running
    except Exception as error:
        print(_sentence(error), file=sys.stderr)
        return 3


async def _work(settings: Settings) -> int:
    """Until it is told to stop; running jobs are given back then."""
    told = asyncio.Event()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_, told.set)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        vault = await Vault.start(settings)
    except Exception as error:
        print(_sentence(error), file=sys.stderr)
        return 3
    vault.work()
    print("证据库后台任务已开始。", flush=True)
    await told.wait()
    await vault.stop()
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, CertificateFault | KeyFault | StoreUnfit | HistoryLost):
        return str(error)
    if isinstance(error, VaultError):
        return f"{error.title}（{error}）"
    if isinstance(error, SQLAlchemyError | OSError):
        return f"证据库的数据库连接不上，未启动：{str(error).splitlines()[0]}"
    return traceback.format_exc()


def _set_up_store(settings: Settings) -> int:
    admin, dispose = (
        [os.environ.get(f"QUANCHENG_STORE_{who}_{part}_KEY") for part in ("ACCESS", "SECRET")]
        for who in ("ADMIN", "DISPOSE")
    )
    if settings.store != "s3" or not (admin[0] and admin[1]):
        print(
            "setup-store 用于对象存储，需要设置 QUANCHENG_VAULT_STORE=s3、QUANCHENG_STORE_ADMIN_ACCESS_KEY 和 "
            "QUANCHENG_STORE_ADMIN_SECRET_KEY。",
            file=sys.stderr,
        )
        return 64
    disposer = (dispose[0], SecretStr(dispose[1])) if dispose[0] and dispose[1] else None
    set_up(settings, admin[0], admin[1], _POLICIES, dispose=disposer)
    return 0


async def _check_store(settings: Settings) -> int:
    # The folder's own ticket secret is not needed: its promises are tried with another.
    store = open_store(settings, secrets.token_bytes(32))
    try:
        findings = await conformance.examine(store)
    except StoreUnfit as error:
        print(f"✗ {error}")
        return 1
    except VaultError as error:
        print(f"✗ {error.title}（{error}）")
        return 2
    finally:
        await store.stop()
    for finding in findings:
        print(finding.line())
    broken = sum(not finding.held for finding in findings)
    if store.lock == "none":
        print(f"注意：{folder.NOT_OBJECT_LOCK}")
    print(f"共 {len(findings)} 项，" + (f"{broken} 项没有守住。" if broken else "全部守住。"))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
