"""From the camera to the browser: a real terminal, a real Chromium."""

import asyncio
import json
import statistics
import subprocess
from uuid import uuid4

from playwright.async_api import Page, async_playwright

from bench.frame import Unavailable, row
from bench.system import minio_system
from deploy.local.processes import LocalError
from deploy.local.provision import find_browser
from tests.browser.conftest import FLAGS
from tests.browser.test_live import play, sign_in
from tests.system import System

SETTLED_SECONDS, LOOKS = 6, 20


@row("live-glass", unit="s", better="lower", goal=2.0, goal_on="ours", runs=3)
def live_glass() -> float:
    """How far the picture in the console lies behind the camera, with segments of a second: now, less when the
    recorder saw what is shown, by the one clock that both have here. The camera is ffmpeg's; the screen's own delay
    is not in it."""
    try:
        return asyncio.run(_behind(minio_system(), str(find_browser())))
    except LocalError as error:
        raise Unavailable(str(error)) from error


async def _behind(system: System, chromium: str) -> float:
    home = system.new_terminal(f"glass-{uuid4().hex[:8]}")
    terminal = system.start_terminal("record", home, "--source", "demo", "--seconds", "60", "--segment-seconds", "1")
    try:
        recording = await asyncio.to_thread(_recording, terminal)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = await browser.new_page()
            await sign_in(page, system, "li")
            await page.goto(f"{system.stack.api_url}/recordings/{recording}")
            await play(page)
            await asyncio.sleep(SETTLED_SECONDS)
            seen = [await _seen(page) for _ in range(LOOKS)]
            await browser.close()
        return statistics.median(seen)
    finally:
        terminal.kill()
        terminal.wait()


def _recording(terminal: "subprocess.Popen[str]") -> str:
    """Once something of it is sealed."""
    assert terminal.stdout
    for line in terminal.stdout:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "sealed":
            return str(event["recording"])
    raise Unavailable("终端没有开始录制")


async def _seen(page: Page) -> float:
    await asyncio.sleep(0.5)
    return float(await page.locator("[data-behind]").get_attribute("data-behind") or "nan")
