"""The main job, done once in front of whoever started the system.

1. The reference terminal streams a live picture with a running clock in one-second segments through the direct
   door, and verifies each receipt.
2. Meanwhile it can be watched in the console.
3. The recording is closed; an export is fetched as the demo's supervisor, and verified by the stand-alone
   verifier and by the stock commands that the export's own README prints.

Any step that fails raises LocalError with one sentence.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from deploy.local.bureau import Bureau, enrolment_code
from deploy.local.processes import ROOT, LocalError, plainly, size_of, spawn, tail
from deploy.local.stack import Stack

SECONDS = 20
_BAR = 24
_DRAIN_SECONDS, _PATIENCE_SECONDS = 10.0, 60.0
Report = Callable[[str], None]


def run(stack: Stack, bureau: Bureau, report: Report, *, seconds: int = SECONDS) -> Path:
    """Do it all; returns the folder of the verified export."""
    home = stack.data / "terminal"
    if not (home / "terminal.json").exists():
        code = enrolment_code(stack, bureau)
        _terminal(["enroll", "--home", str(home), "--api", stack.api_url, "--code", code, "--model", "参考终端"])
        report("  终端已自行生成密钥，凭一次性登记码登记，并记下了证据库的公钥。")
    report(f"① 终端正在实时录制 {seconds} 秒，每秒一个片段：先落盘，再上传，凭证验证后才释放。")
    recording = _record(stack, home, seconds, report)
    report("② 录制已结束并关闭，清单已签名，已记入日志。回放所用的就是刚才封存的那些对象：")
    report(f"     {stack.api_url}/recordings/{recording}")
    bundle = _export(stack, bureau, recording)
    report(f"③ 证据包已导出：{bundle}")
    _verify(home, bundle, report)
    return bundle


def stock_commands(bundle: Path) -> list[str]:
    """The shell commands that the export's README shows, without the block of our own verifier."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (bundle / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [block.strip() for block in blocks if "verify.py" not in block]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an export's tar: plain files below `folder` and nothing else (tarfile's own filters are younger
    than the oldest Python this runs on). Raises LocalError."""
    with tarfile.open(archive) as tar:
        for member in tar:
            target = (folder / member.name).resolve()
            source = tar.extractfile(member)
            if source is None or not member.isfile() or not target.is_relative_to(folder.resolve()):
                raise LocalError(f"导出的归档中有不应有的条目：{member.name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                shutil.copyfileobj(source, file, 1024 * 1024)


def _terminal(arguments: list[str]) -> None:
    argv = [sys.executable, "-m", "services.terminal", *arguments]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalError((done.stderr.strip().splitlines() or ["终端未能完成登记。"])[-1])


def _record(stack: Stack, home: Path, seconds: int, report: Report) -> str:
    argv = [sys.executable, "-m", "services.terminal", "record", "--home", str(home), "--source", "demo"]
    argv += ["--seconds", str(seconds), "--segment-seconds", "1", "--progress", "json"]
    argv += ["--drain-seconds", str(_DRAIN_SECONDS), "--api", stack.api_url]
    sealed, recording, causes, retried = 0, "", list[str](), ""
    log = stack.data / "logs" / "terminal.log"
    log_began = size_of(log)
    with spawn(argv, env=os.environ, log=log, piped=True) as process:
        # The terminal tries for as long as it lives; whoever watches the demo is told before that.
        patience = threading.Timer(seconds + _PATIENCE_SECONDS, process.terminate)
        patience.start()
        try:
            for event in _events(process):
                kind = event.get("event")
                if kind == "recording":
                    recording = event["recording"]
                    report(f"     现在可以观看：{stack.api_url}/recordings/{recording}")
                elif kind == "sealed" and event["sequence"] > 0:
                    sealed += 1
                    _bar(sealed, seconds, event["ms"])
                elif kind == "error":
                    causes.append(event["reason"])
                elif kind == "retry":
                    retried = event["reason"]
        except BaseException:
            _end(process)
            raise
        finally:
            patience.cancel()
            if sealed:
                print(flush=True)
    if process.returncode or not recording:
        # The first thing that went wrong is the cause; what follows from it comes after.
        causes += tail(log, log_began).splitlines()[-1:]
        raise LocalError((causes or ["终端没有完成录制。"])[0] + (f"（{retried}）" if retried else ""))
    return recording


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stopped in good order while the services still answer; what it could not send waits in its spool."""
    process.terminate()
    try:
        process.wait(_DRAIN_SECONDS + 5)
    except subprocess.TimeoutExpired:
        process.kill()


def _events(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout
    for line in process.stdout:
        if line.startswith(b"{"):
            yield json.loads(line)


def _bar(done: int, total: int, milliseconds: int) -> None:
    filled = min(_BAR, done * _BAR // total)
    end = "\r" if sys.stdout.isatty() else "\n"
    if end == "\r" or done % 5 == 0 or done >= total:
        bar = "█" * filled + "░" * (_BAR - filled)
        print(f"     {bar} 片段 {done:>3}/{total} 已封存，凭证已验证（{milliseconds} 毫秒） ", end=end, flush=True)


def _export(stack: Stack, bureau: Bureau, recording: str) -> Path:
    folder = stack.data / "exports"
    with plainly(folder), httpx.Client(base_url=stack.api_url, timeout=60, trust_env=False) as http:
        signed = http.post("/v1/sessions", json={"login": "li", "password": bureau.passwords["li"]})
        headers = {"x-csrf-token": _checked(signed)["csrf"]}
        asked = {"recordings": [recording], "purpose": "other", "note": "演示：核验导出"}
        export = prepared(http, _checked(http.post("/v1/exports", json=asked, headers=headers)))
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / f"{export['id']}.tar"
        fetch(http, export["download"], archive)
        unpack(archive, folder)
        archive.unlink()
    return folder / f"quancheng-{export['id']}"


def prepared(http: httpx.Client, export: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
    """The export once it is ready to be fetched. Raises LocalError where it does not become so."""
    until, pause = time.monotonic() + seconds, 0.1
    while export["state"] in ("waiting", "preparing"):
        if time.monotonic() > until:
            raise LocalError("证据包迟迟没有备好。")
        time.sleep(pause)
        pause = min(2.0, pause * 1.5)
        export = _checked(http.get(f"/v1/exports/{export['id']}"))
    if export["state"] != "ready":
        raise LocalError(export["detail"] or "证据包没有备好。")
    return export


def fetch(http: httpx.Client, address: str, archive: Path) -> None:
    """Fetch an export into a file. Raises LocalError."""
    with http.stream("GET", address) as response, archive.open("wb") as file:
        if response.status_code != 200:
            response.read()
            raise LocalError(f"导出失败：{response.text}")
        for chunk in response.iter_raw():
            file.write(chunk)


def _checked(response: httpx.Response) -> dict[str, Any]:
    answer: dict[str, Any] = response.json()
    if response.is_error:
        raise LocalError(answer.get("title", "请求未能完成。"))
    return answer


def _verify(home: Path, bundle: Path, report: Report) -> None:
    missing = [tool for tool in ("openssl", "sha256sum") if shutil.which(tool) is None]
    if missing:
        raise LocalError(f"本机没有 {'、'.join(missing)}，无法用系统自带的工具核验。")
    trusted = _pinned(home, bundle.parent)
    report("     独立核验程序（对照终端登记时记下的公钥）：")
    argv = [sys.executable, str(bundle / "verify.py"), str(bundle), "--quiet"]
    _show([*argv, *(part for path in trusted for part in ("--trust", str(path)))], bundle, report)
    report("     系统自带的工具，命令取自证据包内的 README.md：")
    for command in stock_commands(bundle):
        first, *more = command.splitlines()
        report(f"       $ {first}{' …' if more else ''}")
        _show(["sh", "-c", command], bundle, report)


def _show(argv: list[str], folder: Path, report: Report) -> None:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, env=dict(os.environ))
    for line in (done.stdout + done.stderr).strip().splitlines():
        report(f"         {line}")
    if done.returncode:
        raise LocalError(f"核验失败：{argv[0]} 以 {done.returncode} 结束。")


def _pinned(home: Path, folder: Path) -> list[Path]:
    """The keys that the terminal pinned at enrolment, as files the verifier takes."""
    vault = json.loads((home / "terminal.json").read_text("utf-8"))["vault"]
    prefix = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of Ed25519 (RFC 8410)
    body = base64.b64encode(prefix + base64.b64decode(vault["receipt_key"])).decode()
    receipt, log = folder / "trusted-vault.pem", folder / "trusted-log.vkey"
    receipt.write_text(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    log.write_text(vault["log_vkey"] + "\n")
    return [receipt, log]
