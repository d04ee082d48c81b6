"""`python -m services.api` serves, with what `services.api.settings` reads from the environment."""

from __future__ import annotations

import sys

import uvicorn
from pydantic import ValidationError

from services.api.app import create_app
from services.api.settings import Settings


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"接口服务设置有误：{error}", file=sys.stderr)
        return 64
    try:
        app = create_app(settings)
    except (OSError, ValueError, TypeError) as error:
        print(f"接口服务的服务密钥 {settings.service_key} 无法读取：{error}", file=sys.stderr)
        return 64
    uvicorn.run(
        app,
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


if __name__ == "__main__":
    sys.exit(main())
