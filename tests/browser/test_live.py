"""Watching a recorder live in the console, and playing the same sealed objects afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.system import System

SECONDS = 24
SHOTS = os.environ.get("QUANCHENG_SCREENSHOTS")


async def shoot(page: Page, name: str) -> None:
    if SHOTS:
        await page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


async def sign_in(page: Page, system: System, login: str, to: str = "/recordings") -> None:
    await page.goto(f"{system.stack.api_url}/")
    await page.fill("#login", login)
    await page.fill("#password", system.people.passwords[login])
    await page.click("button[type=submit]")
    await page.wait_for_url(f"**{to}")


async def play(page: Page) -> None:
    await page.select_option("select", "spot-check")
    await page.get_by_role("button", name="记录用途并播放").click()
    await page.wait_for_function(
        "() => { const v = document.querySelector('video'); return v && v.currentTime > 0.5 }"
    )


async def next_event(process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    assert process.stdout
    while line := await asyncio.to_thread(process.stdout.readline):
        if line.startswith("{") and (event := json.loads(line))["event"] == kind:
            return dict(event)
    raise AssertionError(f"the terminal ended without {kind}")


async def test_a_live_recording_is_watched_close_behind_the_camera_and_played_again_once_closed(
    minio_system: System, browser: Browser
) -> None:
    system = minio_system
    home = system.new_terminal("browser-live")
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    await sign_in(page, system, "li")

    process = system.start_terminal(
        "record", home, "--source", "demo", "--seconds", str(SECONDS), "--segment-seconds", "1"
    )
    try:
        recording = (await next_event(process, "recording"))["recording"]
        await next_event(process, "sealed")
        await expect(page.locator(f"a[href='/recordings/{recording}']").first).to_be_visible(timeout=15_000)
        await shoot(page, "recordings-live")
        await page.goto(f"{system.stack.api_url}/recordings/{recording}")
        await play(page)
        await asyncio.sleep(6)  # let the player settle at the live edge
        behind = []
        for _ in range(9):
            await asyncio.sleep(0.5)
            behind.append(float(await page.locator("[data-behind]").get_attribute("data-behind") or "nan"))
        await shoot(page, "recording-live")
        print("seconds behind the camera:", behind)
        assert sorted(behind)[len(behind) // 2] <= 3.0
        # Going back is to stay behind, until the viewer asks for the present.
        await page.get_by_role("button", name="后退 5 秒（←）").click()
        await expect(page.get_by_role("button", name="回到现场")).to_be_visible()
        await page.get_by_label("倍速").select_option("0.5")
        await page.get_by_role("button", name="回到现场").click()
        await expect(page.get_by_label("倍速")).to_have_value("1")
        await expect(page.locator("#timeline-ended")).to_contain_text("录制中")
        await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()

    await page.goto(f"{system.stack.api_url}/recordings/{recording}")
    await play(page)
    assert await page.evaluate("document.querySelector('video').duration") == pytest.approx(SECONDS, abs=2)
    frames = "document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames"
    await page.wait_for_function(f"() => {frames} > 20")
    await shoot(page, "recording-closed")
    await page.set_viewport_size({"width": 390, "height": 844})
    await shoot(page, "recording-closed-phone")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not troubles, troubles
    await page.close()
