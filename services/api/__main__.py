"""`python -m services.api` serves, with what `services.api.settings` reads from the environment. Beside it:

work    do the jobs, for an api that serves with QUANCHENG_API_WORK=false
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import uvicorn
from pydantic import ValidationError

from services.api.app import create_app, work
from services.api.server import Protocol
from services.api.settings import Settings


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"接口服务设置有误：{error}", file=sys.stderr)
        return 64
    if sys.argv[1:] not in ([], ["work"]):
        print(__doc__, file=sys.stderr)
        return 64
    try:
        if sys.argv[1:] == ["work"]:
            asyncio.run(_work(settings))
            return 0
        app = create_app(settings)
    except (OSError, ValueError, TypeError) as error:
        print(f"接口服务的服务密钥 {settings.service_key} 无法读取：{error}", file=sys.stderr)
        return 64
    uvicorn.run(
        app,
        http=Protocol,
        loop="uvloop",
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


async def _work(settings: Settings) -> None:
    """Until it is told to stop."""
    told = asyncio.Event()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_, told.set)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    print("接口服务后台任务已开始。", flush=True)
    await work(settings, told)


if __name__ == "__main__":
    sys.exit(main())
