"""Watching a recording of two hours: the timeline, seeking, pictures one by one, speed, keys, a snapshot."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.test_live import SHOTS, play, sign_in
from tests.rooms.lengthy import Piece, repeated, sealed
from tests.rooms.movies import fragmented
from tests.rooms.people import new_terminal
from tests.system import System

BEGAN = datetime(2026, 11, 25, 1, 0, tzinfo=UTC)
"""Nine o'clock in Shanghai."""
EACH, COUNT, MISSING = 10, 720, range(301, 304)
PICTURE = 0.1
PHONE = 390
VIDEO = "document.querySelector('video')"


@dataclass
class Watcher:
    page: Page
    recording: UUID
    troubles: list[str]

    @property
    def width(self) -> int:
        size = self.page.viewport_size
        assert size
        return size["width"]

    @property
    def suffix(self) -> str:
        """Tells the screenshots on a phone from the others."""
        return "-phone" if self.width == PHONE else ""

    async def shoot(self, name: str) -> None:
        """What is on screen, not the whole page: the list of segments is long."""
        if SHOTS:
            await self.page.screenshot(path=str(Path(SHOTS) / f"{name}{self.suffix}.png"))

    async def time(self) -> float:
        return float(await self.page.evaluate(f"{VIDEO}.currentTime"))

    async def shown_at(self) -> datetime:
        text = await self.page.locator("#shown-at").get_attribute("datetime")
        return datetime.fromisoformat(str(text))

    async def shows(self, at: datetime, within: float) -> None:
        """A picture of this moment, by the recorder's clock, comes on screen."""
        milliseconds = at.timestamp() * 1000
        await self.page.wait_for_function(
            f"""() => {{
            const shown = Date.parse(document.querySelector('#shown-at').dateTime);
            return {VIDEO}.readyState > 1 && !{VIDEO}.seeking
            && Math.abs(shown - {milliseconds}) <= {within * 1000} }}"""
        )

    async def paused(self) -> None:
        await self.page.evaluate(f"{VIDEO}.pause()")
        await expect(self.page.locator("#play")).to_have_attribute("aria-label", "播放（空格）")

    async def click_at(self, at: datetime) -> None:
        """On the timeline, where this moment lies."""
        box = await self.page.locator("#timeline").bounding_box()
        assert box
        share = (at - BEGAN) / timedelta(seconds=EACH * COUNT)
        await self.page.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)


def pieces() -> Iterator[Piece]:
    """Two hours, but for half a minute."""
    made = repeated(fragmented(seconds=3), count=COUNT, seconds=EACH)
    return (piece for piece in made if piece.sequence not in MISSING)


@pytest.fixture(scope="module")
async def recording(local_system: System) -> UUID:
    terminal = await new_terminal(local_system.stack, local_system.people.unit, None)
    return await sealed(terminal, pieces(), BEGAN)


@pytest.fixture(params=["desktop", "phone"])
async def watcher(
    request: pytest.FixtureRequest, local_system: System, browser: Browser, recording: UUID
) -> AsyncIterator[Watcher]:
    size = {"width": PHONE, "height": 844} if request.param == "phone" else {"width": 1280, "height": 900}
    page = await browser.new_page(viewport=size, accept_downloads=True)  # type: ignore[arg-type]
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    await sign_in(page, local_system, "li")
    await page.goto(f"{local_system.stack.api_url}/recordings/{recording}")
    yield Watcher(page, recording, troubles)
    assert not troubles, troubles
    await page.close()


async def test_the_timeline_shows_the_whole_and_seeks_to_any_place(watcher: Watcher) -> None:
    page = watcher.page
    gap = page.get_by_role("group", name="断档").get_by_role("button")
    await expect(gap).to_have_count(1)
    words = "断档：缺少片段，原因未登记，30 秒，09:50:00 至 09:50:30，缺片段 301 至 303"
    await expect(gap).to_have_attribute("aria-label", words)
    await expect(page.locator("#timeline-ended")).to_have_text("11:00:00")
    await expect(page.get_by_role("button", name="播放（空格）")).to_be_disabled()
    await play(page)
    await watcher.paused()

    slider = page.get_by_role("slider", name="时间轴")
    await watcher.click_at(BEGAN + timedelta(minutes=90))
    await watcher.shows(BEGAN + timedelta(minutes=90), within=30)
    await watcher.shoot("watching")

    # A gap is named where it is focused, and leads to the picture behind it.
    await gap.focus()
    await expect(page.locator("#timeline-tip")).to_have_text(words)
    await watcher.shoot("watching-gap")
    await page.keyboard.press("Enter")
    await watcher.shows(BEGAN + timedelta(seconds=3030), within=0.2)
    await expect(page.locator("#player-words")).to_contain_text("已跳到其后的画面")

    await slider.focus()
    await page.keyboard.press("Home")
    await watcher.shows(BEGAN, within=0.2)
    await page.keyboard.press("PageUp")
    await watcher.shows(BEGAN + timedelta(minutes=1), within=0.2)
    await page.keyboard.press("End")
    await watcher.shows(BEGAN + timedelta(hours=2), within=0.5)
    assert await page.evaluate("document.documentElement.scrollWidth") <= watcher.width


async def test_pictures_one_by_one_speed_and_sound_by_keyboard(watcher: Watcher) -> None:
    page = watcher.page
    await play(page)
    await page.wait_for_function(f"() => {VIDEO}.getVideoPlaybackQuality().totalVideoFrames > 5")
    await page.keyboard.press("Space")
    await watcher.paused()
    await page.get_by_role("slider", name="时间轴").focus()
    await page.keyboard.press("PageUp")
    await watcher.shows(BEGAN + timedelta(seconds=61), within=1)

    begun = await watcher.shown_at()
    for count, key in ((1, "."), (2, "."), (1, ","), (0, ","), (-1, ",")):
        await page.keyboard.press(key)
        await watcher.shows(begun + timedelta(seconds=count * PICTURE), within=PICTURE / 3)
    await page.get_by_role("button", name="下一帧（.）").click()
    await watcher.shows(begun, within=PICTURE / 3)

    await page.keyboard.press("ArrowRight")
    await watcher.shows(begun + timedelta(seconds=5), within=PICTURE)
    await page.keyboard.press("Shift+ArrowLeft")
    await watcher.shows(begun - timedelta(seconds=25), within=PICTURE)
    await page.get_by_role("button", name="前进 30 秒（Shift+→）").click()
    await watcher.shows(begun + timedelta(seconds=5), within=PICTURE)

    rate = f"{VIDEO}.playbackRate"
    await page.keyboard.press("]")
    assert await page.evaluate(rate) == 1.5
    await page.get_by_label("倍速").select_option("4")
    await page.locator("#video").focus()
    at = await watcher.time()
    await page.keyboard.press("Space")
    await page.wait_for_function(f"() => {VIDEO}.currentTime > {at + 4}")
    assert await page.evaluate(rate) == 4
    for _ in range(9):
        await page.keyboard.press("[")
    assert await page.evaluate(rate) == 0.5
    await expect(page.get_by_label("倍速")).to_have_value("0.5")

    await page.keyboard.press("m")
    await expect(page.get_by_role("button", name="取消静音（m）")).to_be_visible()
    await page.keyboard.press("ArrowDown")
    assert await page.evaluate(f"{VIDEO}.volume") == pytest.approx(0.9)
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="快捷键")).to_be_visible()
    await watcher.shoot("watching-keys")
    await page.keyboard.press("Escape")
    await page.keyboard.press("f")
    await page.wait_for_function("() => document.fullscreenElement?.id === 'player'")
    await watcher.shoot("watching-full")
    await page.keyboard.press("f")
    await page.wait_for_function("() => !document.fullscreenElement")


async def test_nothing_moves_when_it_begins_to_play(watcher: Watcher) -> None:
    page = watcher.page
    begun = await page.locator("#controls").bounding_box()
    stage = await page.locator(".stage").bounding_box()
    await play(page)
    await watcher.paused()
    then = await page.locator("#controls").bounding_box()
    now = await page.locator(".stage").bounding_box()
    assert begun and stage and then and now
    # On a phone the form is taller than the picture that takes its place; what is below keeps its size.
    assert then["y"] - now["y"] - now["height"] == pytest.approx(begun["y"] - stage["y"] - stage["height"], abs=0.5)
    assert then["height"] == pytest.approx(begun["height"], abs=0.5)
    for button in await page.locator("#controls button").all():
        box = await button.bounding_box()
        assert box and box["width"] >= 40 and box["height"] >= 44
        assert await button.get_attribute("title")


async def test_the_original_is_taken_along_once_its_purpose_is_logged(watcher: Watcher) -> None:
    page = watcher.page
    await page.get_by_role("button", name="只下载原始文件").click()
    assert await page.evaluate("document.activeElement.id") == "export-purpose", "the purpose is asked for"
    await page.select_option("#export-purpose", "case-handling")
    async with page.expect_download() as fetching:
        await page.get_by_role("button", name="只下载原始文件").click()
    fetched = await fetching.value
    assert fetched.suggested_filename == f"quancheng-{watcher.recording}.mp4"
    await expect(page.locator("#export [data-words]")).to_contain_text("已登记并写入日志")
    await watcher.shoot("original")
    whole = (await fetched.path()).read_bytes()
    assert len(whole) == sum(len(piece.data) for piece in pieces())


async def test_a_snapshot_says_what_it_was_taken_from(watcher: Watcher, local_system: System) -> None:
    page = watcher.page
    await play(page)
    await watcher.paused()
    await watcher.click_at(BEGAN + timedelta(minutes=30))
    await watcher.shows(BEGAN + timedelta(minutes=30), within=30)
    shown = await watcher.shown_at()
    async with page.expect_download() as saving:
        await page.get_by_role("button", name="截图").click()
    saved = await saving.value
    await expect(page.locator("#player-words")).to_contain_text("截图是副本，不是记录本身")
    texts, width, height = read_png(await saved.path())
    told = json.loads(texts["quancheng-snapshot"])
    sequence = told["segment"]
    sha256 = local_system.stack.postgres.run_sql(
        f"SELECT sha256 FROM api.segments WHERE recording_id = '{watcher.recording}' AND sequence = {sequence}"
    ).strip()
    viewing = local_system.stack.postgres.run_sql(
        f"SELECT id FROM api.viewings WHERE recording_id = '{watcher.recording}' ORDER BY at DESC LIMIT 1"
    ).strip()
    assert (told["recording"], told["sha256"], told["viewing"]) == (str(watcher.recording), sha256, viewing)
    assert told["copy"] == "a copy, not the record"
    assert told["taken_by"] == "示例市交通运输局 李监督"
    at = datetime.fromisoformat(told["device_time"])
    assert abs(at - shown) < timedelta(milliseconds=2)
    began = BEGAN + timedelta(seconds=EACH * (sequence - 1))
    assert abs(at - began - timedelta(seconds=told["offset_seconds"])) < timedelta(milliseconds=2)
    assert abs(datetime.fromisoformat(told["taken_at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert "副本，不是记录本身" in texts["Description"]
    assert width == 640 and height > 120 + 5 * 14, "the picture, and a strip below it"
    name = saved.suggested_filename
    assert name.startswith(f"quancheng-snapshot-{watcher.recording}-{sequence}-2026")
    assert "li" not in name.split("-") and "李" not in name
    if SHOTS:
        await saved.save_as(Path(SHOTS) / f"snapshot{watcher.suffix}.png")


def read_png(path: Path) -> tuple[dict[str, str], int, int]:
    """The texts of a PNG whose every chunk is sound, and its size."""
    data, at = path.read_bytes(), 8
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    texts: dict[str, str] = {}
    width, height, kind = 0, 0, b""
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
        if kind == b"iTXt":
            keyword, rest = body.split(b"\0", 1)
            assert rest[:4] == b"\0\0\0\0"
            texts[keyword.decode("latin-1")] = rest[4:].decode()
        at += 12 + length
    assert kind == b"IEND"
    return texts, width, height
