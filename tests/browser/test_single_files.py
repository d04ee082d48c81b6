"""Single files in a real browser: films that it cannot play, by their renditions; photos, sound and documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.test_live import SHOTS, play, sign_in
from tests.flows.films import HEVC, film, uploaded
from tests.flows.pushing import FMP4, Source
from tests.rooms.movies import whole
from tests.system import System

PHONE = 390
VIDEO = "document.querySelector('video')"
RENDERED = "转码播放，仅供观看，不是封存的原始片段"
MEAN = f"""() => {{
  const seen = document.createElement('canvas').getContext('2d', {{ willReadFrequently: true }});
  seen.drawImage({VIDEO}, 0, 0, 64, 36);
  const dots = seen.getImageData(0, 0, 64, 36).data;
  let sum = 0;
  for (let at = 0; at < dots.length; at += 4) sum += dots[at] + dots[at + 1] + dots[at + 2];
  return sum / (dots.length / 4) / 3;
}}"""
"""The mean of what is on screen: 0 is black."""


@dataclass
class Desk:
    """A supervisor's browser, and a source to upload to."""

    system: System
    source: Source
    page: Page
    troubles: list[str]

    async def open(self, recording: str) -> None:
        await self.page.goto(f"{self.system.stack.api_url}/recordings/{recording}")

    async def upload(self, data: bytes) -> str:
        return await asyncio.to_thread(uploaded, self.system, self.source, data)

    async def shoot(self, name: str) -> None:
        assert await self.page.evaluate("document.documentElement.scrollWidth") <= self.width
        if SHOTS:
            suffix = "-phone" if self.width == PHONE else ""
            await self.page.screenshot(path=str(Path(SHOTS) / f"{name}{suffix}.png"))

    @property
    def width(self) -> int:
        size = self.page.viewport_size
        assert size
        return size["width"]

    async def register(self) -> None:
        await self.page.select_option("#viewing-purpose", "case-handling")
        await self.page.get_by_role("button", name="记录用途并查看").click()


@pytest.fixture(scope="module")
def source(local_system: System) -> Source:
    return Source(local_system, "phone", name="手机")


@pytest.fixture(params=["desktop", "phone"])
async def desk(
    request: pytest.FixtureRequest, local_system: System, source: Source, browser: Browser
) -> AsyncIterator[Desk]:
    size = {"width": PHONE, "height": 844} if request.param == "phone" else {"width": 1280, "height": 900}
    page = await browser.new_page(viewport=size, accept_downloads=True)  # type: ignore[arg-type]
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    await sign_in(page, local_system, "li")
    yield Desk(local_system, source, page, troubles)
    await page.close()
    assert not troubles, troubles


@pytest.mark.parametrize("kind", ["avi", "mp4"])
async def test_a_film_that_the_browser_cannot_play_is_played_and_sought_by_its_rendition(
    desk: Desk, kind: str
) -> None:
    page = desk.page
    await desk.open(await desk.upload(film(kind, 30)))
    await play(page)
    await expect(page.locator("#rendered")).to_have_text(RENDERED)
    await expect(page.locator("#rendered")).to_be_visible()
    assert await page.evaluate(f"{VIDEO}.duration") == pytest.approx(30, abs=0.3)
    assert await page.evaluate(MEAN) > 60
    await page.evaluate(f"{VIDEO}.pause()")
    await expect(page.locator("#timeline-ended")).to_have_text("00:00:30")
    box = await page.locator("#timeline").bounding_box()
    assert box
    await page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    await page.wait_for_function(
        f"() => {VIDEO}.readyState > 1 && !{VIDEO}.seeking && Math.abs({VIDEO}.currentTime - 24) < 0.5"
    )
    assert await page.evaluate(MEAN) > 60
    await expect(page.locator("#shown-at")).to_contain_text("00:00:2")
    await desk.shoot(f"rendition-{kind}")


async def test_a_pushed_recording_in_hevc_falls_back_to_its_rendition(desk: Desk) -> None:
    source = Source(desk.system, name="HEVC")
    pushing = source.push("live.mp4", *FMP4, codec=(*HEVC, "-pix_fmt", "yuv420p", "-c:a", "aac"))
    assert await asyncio.to_thread(pushing.wait, 60) == 0
    (recording,) = await asyncio.to_thread(source.closed)
    await desk.open(recording["id"])
    await play(desk.page)
    await expect(desk.page.locator("#rendered")).to_be_visible()
    assert await desk.page.evaluate(MEAN) > 60
    await expect(desk.page.locator("#shown-at")).to_contain_text("20")


async def test_a_film_that_the_browser_plays_is_the_sealed_file(desk: Desk) -> None:
    await desk.open(await desk.upload(whole("mp4", "-pix_fmt", "yuv420p", seconds=20)))
    await play(desk.page)
    await expect(desk.page.locator("#player-words")).to_have_text("播放的是封存的原始文件，未经转码")
    await expect(desk.page.locator("#rendered")).to_be_hidden()
    await desk.page.evaluate(f"{VIDEO}.currentTime = 15")
    await desk.page.wait_for_function(f"() => {VIDEO}.currentTime > 15.2")
    assert await desk.page.evaluate(MEAN) > 60


async def test_what_nothing_can_be_made_of_says_so_and_is_offered_as_it_is(desk: Desk) -> None:
    page = desk.page
    await desk.open(await desk.upload(film("avi", 2).replace(b"MJPG", b"ZZ9Z")))
    await page.select_option("select", "spot-check")
    await page.get_by_role("button", name="记录用途并播放").click()
    await expect(page.locator("#gate-words")).to_contain_text(
        "不能在此播放，已按原样封存，请下载原始文件。（画面编码 ZZ9Z）"
    )
    await expect(page.get_by_role("button", name="只下载原始文件")).to_be_visible()
    await desk.shoot("not-renderable")
    desk.troubles[:] = [said for said in desk.troubles if "422" not in said]


async def test_a_photo_is_enlarged_and_turned_by_mouse_and_keyboard(desk: Desk) -> None:
    page = desk.page
    await desk.open(await desk.upload(whole("jpg", "-vf", "scale=1600:1000", "-frames:v", "1", "-update", "1")))
    picture = page.locator("[data-picture]")
    await expect(picture).to_be_hidden()
    await desk.register()
    await page.wait_for_function("() => document.querySelector('[data-picture]').naturalWidth === 1600")
    pane = page.locator("[data-pane]")
    await expect(pane).to_be_focused()
    fitted = await picture.bounding_box()
    whole_pane = await pane.bounding_box()
    assert fitted and whole_pane and fitted["width"] <= whole_pane["width"] + 1
    await desk.shoot("photo")
    await page.keyboard.press("]")
    turned = await picture.bounding_box()
    assert turned and turned["height"] > turned["width"]
    await expect(page.locator("[data-scale]")).to_contain_text("右转 90°")
    await page.get_by_role("button", name="原大（1）").click()
    large = await picture.bounding_box()
    assert large and (round(large["width"]), round(large["height"])) == (1000, 1600)
    await desk.shoot("photo-turned")
    await page.get_by_role("button", name="向左转（[）").click()
    await page.get_by_role("button", name="适合窗口（0）").click()
    again = await picture.bounding_box()
    assert again and again["width"] == pytest.approx(fitted["width"], abs=1)


async def test_sound_plays_and_is_sought_and_a_document_opens(desk: Desk) -> None:
    page = desk.page
    await desk.open(await desk.upload(film("wav", 20, codec=("-vn",))))
    await play(page)
    await expect(page.locator("#player-words")).to_have_text("播放的是封存的原始文件，未经转码")
    await expect(page.get_by_role("button", name="截图")).to_be_hidden()
    await page.get_by_role("slider", name="时间轴").focus()
    await page.keyboard.press("Shift+ArrowRight")
    await page.wait_for_function(f"() => {VIDEO}.currentTime > 19")
    await desk.shoot("sound")

    await desk.open(await desk.upload(b"%PDF-1.7\n" + b"x" * 100))
    await desk.register()
    link = page.get_by_role("link", name="在新窗口打开文件")
    await expect(link).to_be_focused()
    answer = await page.request.get(f"{desk.system.stack.api_url}{await link.get_attribute('href')}")
    assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == (
        "application/pdf",
        "nosniff",
    )
    assert answer.headers["content-disposition"].startswith("inline")
    await desk.shoot("document")
