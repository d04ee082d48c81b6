"""An administrator gives an encoder an address, it pushes, the supervisor watches, the address is taken away."""

from __future__ import annotations

import asyncio
import subprocess

import httpx
import pytest
from playwright.async_api import Browser, Dialog, Page, expect

from services.terminal.capture import find_ffmpeg
from tests.browser.test_live import play, shoot, sign_in
from tests.flows.pushing import FMP4, TS
from tests.system import System


async def phone_fits(page: Page) -> None:
    await page.set_viewport_size({"width": 390, "height": 844})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390


def pushing(url: str, *options: str, seconds: float) -> None:
    argv = [find_ffmpeg(None), "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc=size=640x360:rate=25"]
    argv += ["-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", str(seconds), "-g", "25", "-pix_fmt", "yuv420p"]
    argv += ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", *options, url]
    subprocess.run(argv, check=True, timeout=60)


async def new_source(page: Page, name: str, kind: str) -> None:
    await page.get_by_label("名称").fill(name)
    await page.get_by_label("种类").select_option(label=kind)
    await page.get_by_label("种类").focus()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name=name)).to_be_visible()


async def new_address(page: Page, gateway: str = "") -> str:
    await page.get_by_label("经由的媒体网关（如有）").fill(gateway)
    await page.get_by_role("button", name="新建推流地址").click()
    await expect(page.get_by_role("heading", name="新的推流地址")).to_be_focused()
    await expect(page.get_by_alt_text("推流地址的二维码")).to_be_visible()
    drawn = "document.querySelector('.told img').naturalWidth"
    assert await page.evaluate(drawn) > 100
    return str(await page.locator("#address").text_content())


async def test_an_address_is_made_shown_once_used_and_revoked(local_system: System, browser: Browser) -> None:
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    await sign_in(page, local_system, "admin", "/sources")
    await new_source(page, "大门口网关", "媒体网关")
    url = await new_address(page, "MediaMTX")
    await shoot(page, "source-address")
    await phone_fits(page)
    await shoot(page, "source-address-phone")
    await page.set_viewport_size({"width": 1280, "height": 900})

    await page.goto(page.url.split("/push-addresses")[0])
    token = url.split("/")[-2]
    assert token not in await page.content()
    await expect(page.get_by_role("cell", name="MediaMTX")).to_be_visible()
    await asyncio.to_thread(pushing, url, *FMP4, seconds=2)

    await page.goto(f"{local_system.stack.api_url}/sources")
    await shoot(page, "sources")
    await phone_fits(page)
    await shoot(page, "sources-phone")
    await page.get_by_role("link", name="大门口网关").click()
    asked: list[str] = []

    async def agree(dialog: Dialog) -> None:
        asked.append(dialog.message)
        await dialog.accept()

    page.on("dialog", agree)
    await page.get_by_role("button", name="吊销").click()
    await expect(page.get_by_role("cell", name="已吊销")).to_be_visible()
    assert len(asked) == 1
    async with httpx.AsyncClient(trust_env=False) as client:
        refused = await client.put(url, content=b"")
    assert refused.json()["slug"] == "address-invalid"

    await page.get_by_role("button", name="发放登记码").click()
    assert len(str(await page.locator("#code").text_content())) == 20
    assert not troubles, troubles
    await page.close()


@pytest.mark.parametrize(("name", "options"), [("live.mp4", FMP4), ("live.ts", TS)], ids=["fmp4", "ts"])
async def test_what_is_pushed_is_watched_across_a_reconnection(
    local_system: System, browser: Browser, name: str, options: tuple[str, ...]
) -> None:
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    await sign_in(page, local_system, "admin", "/sources")
    await new_source(page, f"摄像机 {name}", "编码器或网络摄像机")
    url = (await new_address(page)).removesuffix("live.mp4") + name
    await page.close()
    await asyncio.to_thread(pushing, url, *options, seconds=5)
    await asyncio.sleep(2)
    await asyncio.to_thread(pushing, url, *options, seconds=5)
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    await sign_in(page, local_system, "li")
    await page.get_by_role("link", name=f"摄像机 {name}").first.click()
    await expect(page.get_by_text("由服务器代为封存，终端没有签名")).to_be_visible(timeout=40_000)
    await page.reload()
    await expect(page.get_by_role("region", name="断档")).to_contain_text("来源中断")
    await play(page)
    video = "document.querySelector('video')"
    assert await page.evaluate(f"{video}.duration") == pytest.approx(10, abs=1)
    await page.wait_for_function(f"() => {video}.currentTime > 6.5", timeout=30_000)
    assert await page.evaluate(f"{video}.getVideoPlaybackQuality().totalVideoFrames") > 120
    await page.evaluate(f"{video}.currentTime = 1")
    await page.wait_for_function(f"() => {video}.currentTime > 2 && {video}.currentTime < 5", timeout=30_000)
    await shoot(page, f"pushed-{name}")
    await page.close()
