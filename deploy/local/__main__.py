"""`./dev run`: the whole system on this machine, and at its first start the main job in front of the user."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from deploy.local import bureau, demo, minio
from deploy.local.processes import ROOT, LocalError, hold_folder
from deploy.local.stack import Stack


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    description = "在本机启动全程；首次启动会当面演示一次完整记录。"
    parser = argparse.ArgumentParser(prog="./dev run", description=description)
    parser.add_argument("--once", action="store_true", help="演示完即停止并退出（失败则退出码非零）")
    parser.add_argument("--demo", action="store_true", help="再演示一次")
    parser.add_argument("--minio", action="store_true", help="使用真实的 MinIO（对象锁定），而不是本地文件夹")
    parser.add_argument("--data", type=Path, help="数据文件夹（默认 data/local 或 data/minio）")
    parser.add_argument("--port", type=_port, default=8100, help="端口，后两个端口也会用到（默认 8100）")
    parser.add_argument(
        "--seconds", type=int, default=demo.SECONDS, choices=range(3, 601), metavar="N", help="演示录制的秒数"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    data = (options.data or ROOT / "data" / ("minio" if options.minio else "local")).absolute()
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        with hold_folder(data):
            binary = minio.find_or_build(_say) if options.minio else None
            with Stack(data, port=options.port, minio=binary, report=_say) as stack:
                return _serve(stack, options)
    except LocalError as error:
        print(f"✗ {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        _say("已停止。")
        return 130 if options.once else 0


def _serve(stack: Stack, options: argparse.Namespace) -> int:
    people = bureau.found(stack)
    _say(f"就绪 ready  {stack.api_url}")
    if stack.minio is None:
        _say("  存储：本地一次写入文件夹，不具备对象锁定（Object Lock）效力；加 --minio 使用 MinIO。")
    _say("  登录（演示账号）：")
    for login, (name, _) in bureau.PEOPLE.items():
        _say(f"     {name}  账号 {login:<6} 口令 {people.passwords[login]}")
    done = stack.data / "demo-done"
    if options.once or options.demo or not done.exists():
        bundle = demo.run(stack, people, _say, seconds=options.seconds)
        done.write_text(str(bundle))
        _say("✓ 全部核验通过。")
    if options.once:
        return 0
    _say("服务运行中，按 Ctrl-C 停止。")
    threading.Event().wait()
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65533:
        raise argparse.ArgumentTypeError("端口应为 1 到 65533 的整数")
    return int(text)


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
