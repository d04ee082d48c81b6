"""`python -m services.vault` serves; `python -m services.vault setup-store` makes buckets and identities.

`setup-store` alone reads the store administrator's `QUANCHENG_STORE_ADMIN_ACCESS_KEY` and `…_SECRET_KEY`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvicorn
from pydantic import ValidationError

from services.vault.app import create_app
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
        create_app(settings),
        host=settings.host,
        port=settings.port,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
        access_log=False,
        server_header=False,
        log_level="info",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
