"""Command line of the reference recorder terminal: `python -m services.terminal --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NoReturn, get_args

from services.terminal import loop
from services.terminal.camera import Source
from services.terminal.capture import DEMO, find_ffmpeg
from services.terminal.dock.journal import Journal
from services.terminal.dock.run import Dock, Orders
from services.terminal.dock.telling import Telling
from services.terminal.enrol import enrol
from services.terminal.home import Enrolled, Home, TerminalError
from services.terminal.progress import Progress
from services.terminal.session import Policy, Session
from services.terminal.spool import Spool, SpoolError
from services.vault.contract import verify, wire

_SHANGHAI = timezone(timedelta(hours=8))
_HOME = Path("~/.quancheng-terminal")
_NOTE = 500


class _Formatter(argparse.HelpFormatter):
    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, "用法：" if prefix is None else prefix)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any):
        super().__init__(**options, add_help=False, formatter_class=_Formatter)
        self._positionals.title, self._optionals.title = "命令", "选项"
        self.add_argument("-h", "--help", action="help", help="显示本说明")

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"参数有误：{message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m services.terminal", description="全程执法记录终端（参考实现）")
    commands = parser.add_subparsers(dest="command", required=True, metavar="命令")

    def command(name: str, purpose: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=purpose, description=purpose)
        made.add_argument("--home", type=Path, default=_HOME, metavar="目录", help=f"终端目录（默认 {_HOME}）")
        form = made.add_argument("--progress", choices=("plain", "json"), default="plain")
        form.help = "输出形式：plain 供人阅读，json 每行一个事件"
        return made

    enrolling = command("enroll", "登记本终端：生成密钥，并记下证据库的公钥")
    enrolling.add_argument("--api", required=True, metavar="网址", help="服务器地址")
    enrolling.add_argument("--code", required=True, metavar="登记码", help="一次性登记码")
    enrolling.add_argument("--model", default="reference-terminal", metavar="型号", help="终端型号")

    recording = command("record", "录制并实时上传，逐片验证凭证；同时续传上次留下的片段")
    recording.add_argument(
        "--source",
        default=DEMO,
        metavar="来源",
        help="demo（演示画面）、/dev/video0 等摄像头、rtsp:// 等地址，或文件路径（按实际速度读取）；默认 demo",
    )
    recording.add_argument("--seconds", type=_positive, metavar="秒", help="录制时长（默认直到停止）")
    recording.add_argument(
        "--segment-seconds",
        type=int,
        choices=range(1, 11),
        metavar="1..10",
        help="片段时长（默认听从服务器）",
    )
    recording.add_argument("--copy", action="store_true", help="不重新编码（来源须为 H.264/AAC）")
    restart = recording.add_mutually_exclusive_group()
    restart.add_argument(
        "--restart",
        action="store_true",
        default=None,
        help="来源结束或中断后，间隔 1 至 15 秒重新开始，仍在同一记录中，直到 --seconds 期满或收到停止信号"
        "（文件以外的来源默认如此；文件则从头重放）",
    )
    restart.add_argument(
        "--no-restart", dest="restart", action="store_false", help="来源结束或中断即结束记录（文件默认如此）"
    )
    recording.add_argument(
        "--when-full",
        choices=("stop", "skip"),
        default="stop",
        help="暂存区满时：stop 停止录制（默认）；skip 画面继续，放不下的片段不保留，一有空间即自动恢复，"
        "未保留的片段在结束声明中列为缺失，退出码为 4。两者都提示执法人员并告知服务器，"
        "都绝不删除尚未取得凭证的片段",
    )
    recording.add_argument("--ffmpeg", metavar="路径", help="ffmpeg 程序（默认自动寻找）")
    resuming = command("resume", "续传上次留下的片段，并关闭那些记录")
    for sending in (recording, resuming):
        sending.add_argument("--api", metavar="网址", help="服务器现在的地址（默认登记时的地址）")
        sending.add_argument(
            "--spool-mb", type=_positive, default=2048.0, metavar="MB", help="暂存区上限（默认 2048）"
        )
        sending.add_argument(
            "--drain-seconds",
            type=_positive,
            default=30.0,
            metavar="秒",
            help="停止后最多再传多久（默认 30）",
        )
        sending.add_argument(
            "--drain",
            choices=("oldest", "newest"),
            default="oldest",
            help="积压的片段先传哪些：oldest 先旧后新（默认），newest 先新后旧；初始化段总是最先",
        )
        sending.add_argument("--forget", action="store_true", help="关闭后不保留凭证副本")
    docking = command("dock", "接管一个文件夹里已经录好的文件，逐个封存并标明不是实时上传；文件夹里的内容不会改动")
    docking.add_argument("folder", type=Path, metavar="文件夹", help="执法记录仪的文件所在（含子文件夹）")
    docking.add_argument(
        "--reason",
        required=True,
        choices=get_args(wire.TakeoverReason),
        help="为什么没有实时上传：no-link 无网络，device-cannot-stream 设备不支持直传，recovered 设备恢复，"
        "other 其他",
    )
    docking.add_argument("--note", metavar="说明", help="补充说明，最多 500 字（reason 为 other 时必填）")
    docking.add_argument("--watch", action="store_true", help="一直留意新的文件，直到停止信号")
    docking.add_argument(
        "--settled-seconds",
        type=_positive,
        default=10.0,
        metavar="秒",
        help="--watch 时，文件多久没有变化才接管（默认 10）",
    )
    docking.add_argument("--rehash", action="store_true", help="不凭大小、修改时间和首尾内容辨认，全部重新计算摘要")
    docking.add_argument("--abandon", action="store_true", help="接管到一半而文件已不在的，按不完整关闭")
    docking.add_argument("--api", metavar="网址", help="服务器现在的地址（默认登记时的地址）")
    docking.add_argument(
        "--drain-seconds", type=_positive, default=30.0, metavar="秒", help="停止后最多再传多久（默认 30）"
    )
    docking.add_argument("--forget", action="store_true", help="关闭后不保留凭证副本")
    trusting = command("trust", "认可另行取得并核对过的证据库新公钥（用于没有接替声明的更换）")
    trusting.add_argument("key", type=Path, metavar="公钥文件", help="证据库的新公钥（PEM）")
    command("status", "查看尚未取得凭证的片段")
    return parser


def _unexplained(given: argparse.Namespace) -> str:
    if given.reason == "other" and not (given.note or "").strip():
        return "--reason other 须用 --note 说明"
    return "--note 最多 500 字" if len(given.note or "") > _NOTE else ""


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("应为正数")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 something remains or failed, 2 cannot start, 3 capture failed, 4 no room for something
    that was recorded, 5 something in a docked folder cannot be taken over, 130 left at once by a second signal."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command == "dock" and (trouble := _unexplained(given)):
        parser.error(trouble)
    try:
        home = Home(given.home.expanduser().absolute())
        if given.command == "status":
            return _status(home, given.progress)
        with home.lock():
            if given.command == "enroll":
                return _enroll(home, given)
            if given.command == "trust":
                return _trust(home, given.key)
            return loop.run(_run(home, given))
    except TerminalError as error:
        Progress(given.progress).tell("error", reason=str(error))
        return error.exit_code
    except SpoolError as error:
        Progress(given.progress).tell("error", reason=str(error))
        return 1
    except OSError as error:
        Progress(given.progress).tell("error", reason=f"终端目录读写失败：{error.filename or error.strerror}。")
        return 1
    except KeyboardInterrupt:
        return 130


def _enroll(home: Home, given: argparse.Namespace) -> int:
    enrolled = loop.run(enrol(home, api=given.api, code=given.code, model=given.model))
    if given.progress == "json":
        fields = {"recorder": str(enrolled.recorder), "name": enrolled.name, "key_id": enrolled.key_id}
        print(json.dumps({"event": "enrolled", **fields}, ensure_ascii=False), flush=True)
    else:
        print(f"已登记为“{enrolled.name}”，终端密钥 {enrolled.key_id[:16]}…")
        print(f"已记下证据库 {enrolled.vault.origin} 的公钥 {enrolled.vault.receipt_key_id[:16]}…")
        if enrolled.vault.lock == "none":
            print("注意：该证据库使用本地一次写入文件夹，不是对象锁定存储（Object Lock）。")
    return 0


def _trust(home: Home, path: Path) -> int:
    try:
        key = verify.load_trust([path])
    except verify.VerificationError as error:
        raise TerminalError(error.chinese) from error
    for identity, public in key.items():
        home.keep(home.enrolled().trusting(verify.raw_key(public), datetime.now(UTC)))
        print(f"已记下证据库的公钥 {identity}")
    return 0


async def _run(home: Home, given: argparse.Namespace) -> int:
    enrolled = home.enrolled()
    if given.api:
        # A server may move; it is trusted by the keys pinned at enrolment, not by its address.
        enrolled = enrolled.model_copy(update={"api": given.api})
    if given.command == "dock":
        return await _dock(home, enrolled, given)
    session = Session(
        home,
        enrolled,
        Progress(given.progress),
        Policy(
            spool_bytes=int(given.spool_mb * 1_000_000),
            drain_seconds=given.drain_seconds,
            forget=given.forget,
            drain=given.drain,
            when_full="stop" if given.command == "resume" else given.when_full,
        ),
    )
    if given.command == "resume":
        return await session.resume()
    source = Source(
        ffmpeg=find_ffmpeg(given.ffmpeg),
        spec=given.source,
        seconds=given.seconds,
        segment_seconds=given.segment_seconds,
        copy=given.copy,
        restart=given.restart,
    )
    return await session.record(source)


async def _dock(home: Home, enrolled: Enrolled, given: argparse.Namespace) -> int:
    orders = Orders(
        folder=given.folder,
        reason=given.reason,
        note=given.note.strip() if given.note else None,
        watch=given.watch,
        settled_seconds=given.settled_seconds,
        drain_seconds=given.drain_seconds,
        rehash=given.rehash,
        abandon=given.abandon,
        forget=given.forget,
    )
    return await Dock(home, enrolled, Telling(given.progress), orders).run()


def _status(home: Home, form: str) -> int:
    spool = Spool(home.path, limit_bytes=0)
    left = spool.leftovers(repair=False)
    journal = Journal(home.path)
    journal.load(repair=False)
    docked = {"unfinished": len(journal.plans), "closed": journal.docked}
    rows = [
        {
            "recording": str(recording.id),
            "started_at": recording.started_at.astimezone(_SHANGHAI).isoformat(sep=" ", timespec="seconds"),
            "segments": recording.next_sequence,
            "pending": len(recording.pending),
            "bytes": sum(ask.size for ask in recording.pending.values()),
        }
        for recording in left
    ]
    if form == "json":
        print(json.dumps({"event": "status", "open": rows, "done": spool.done_count(), "docked": docked}), flush=True)
        return 0
    for row in rows:
        print(
            "记录 {recording}（{started_at} 开始）：{segments} 个片段，其中 {pending} 个尚无凭证，"
            "共 {bytes} 字节".format(**row)
        )
    print(f"尚未关闭的记录 {len(rows)} 条，已关闭 {spool.done_count()} 条。")
    print(f"接管的文件：已封存 {docked['closed']} 个，没有送完 {docked['unfinished']} 个。")
    return 0


if __name__ == "__main__":
    sys.exit(main())
