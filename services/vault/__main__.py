"""`python -m services.vault` serves; `python -m services.vault setup-store` makes buckets and identities.

`setup-store` alone reads the store administrator's `QUANCHENG_STORE_ADMIN_ACCESS_KEY` and `…_SECRET_KEY`.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import uvicorn
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from services.vault.app import create_app
from services.vault.contract.http import Asgi, Receive, Scope, Send
from services.vault.errors import HistoryLost, KeyFault, StoreUnfit, VaultError
from services.vault.settings import Settings
from services.vault.stores import s3

_POLICIES = Path(__file__).parents[2] / "deploy" / "policies"


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"证据库设置有误：{error}", file=sys.stderr)
        return 64
    if sys.argv[1:] == ["setup-store"]:
        access, secret = (os.environ[f"QUANCHENG_STORE_ADMIN_{part}_KEY"] for part in ("ACCESS", "SECRET"))
        s3.set_up(settings, access, secret, _POLICIES)
        return 0
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


def _sentence(error: Exception) -> str:
    if isinstance(error, KeyFault | StoreUnfit | HistoryLost):
        return str(error)
    if isinstance(error, VaultError):
        return f"{error.title}（{error}）"
    if isinstance(error, SQLAlchemyError | OSError):
        return f"证据库的数据库连接不上，未启动：{str(error).splitlines()[0]}"
    return traceback.format_exc()


if __name__ == "__main__":
    sys.exit(main())
