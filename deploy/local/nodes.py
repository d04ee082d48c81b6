"""tus-js-client, installed as its lock file says, for a Node that runs it."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from deploy.local.golang import cache_folder, only_one
from deploy.local.processes import ROOT, LocalError, Report, make_folder

TUS_JS = ROOT / "tests" / "peers" / "tusjs"
_SECONDS = 300


def find_tus_js(report: Report = print) -> Path:
    """A folder with `upload.mjs` and all that it imports. Raises LocalError."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise LocalError("没有 node 与 npm(Debian 软件包 nodejs、npm)。")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(TUS_JS.iterdir()))).hexdigest()[:16]
    target = cache_folder() / "tusjs" / digest
    make_folder(target.parent)
    with only_one(target.parent / "lock", "tus-js-client", report):
        if not target.exists():
            made = target.with_suffix(".new")
            shutil.rmtree(made, ignore_errors=True)
            shutil.copytree(TUS_JS, made)
            argv = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            try:
                done = subprocess.run(argv, cwd=made, capture_output=True, text=True, timeout=_SECONDS, check=False)
            except subprocess.TimeoutExpired as error:
                raise LocalError("tus-js-client 安装超时。") from error
            if done.returncode:
                raise LocalError(f"tus-js-client 安装失败：{done.stderr.strip()[-300:]}")
            made.rename(target)
    return target
