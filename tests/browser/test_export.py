"""An export from the console: registered, followed, fetched, found again; what fails is said."""

from __future__ import annotations

import asyncio
from pathlib import Path

from playwright.async_api import Browser, Page, expect

from services.vault.contract import verify
from tests.browser.test_live import shoot, sign_in
from tests.flows.hand_terminal import HandTerminal
from tests.rooms.exported import unpacked
from tests.rooms.movies import fragmented
from tests.system import System


def record(system: System) -> str:
    with HandTerminal(system) as terminal:
        recording = terminal.begin()
        asks = [recording.seal(n, data) for n, data in enumerate(fragmented(seconds=3))]
        recording.close(recording.closing(asks)).raise_for_status()
        return str(recording.id)


async def open_page(browser: Browser, system: System, recording: str, *, phone: bool = False) -> Page:
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 900}
    page = await browser.new_page(viewport=size)  # type: ignore[arg-type]
    await sign_in(page, system, "li")
    await page.goto(f"{system.stack.api_url}/recordings/{recording}")
    return page


async def test_it_is_registered_by_keyboard_followed_fetched_and_found_again(
    local_system: System, browser: Browser, tmp_path: Path
) -> None:
    recording = await asyncio.to_thread(record, local_system)
    page = await open_page(browser, local_system, recording)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    await page.focus("#export-purpose")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await expect(page.get_by_label("附一份便于播放的 MP4 副本")).to_be_checked()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    link = page.get_by_role("link", name="下载证据包")
    await expect(link).to_be_visible(timeout=60_000)
    await expect(link).to_be_focused()
    await expect(page.locator("#export [data-words]")).to_contain_text("下载中断后可以续传")
    await shoot(page, "export-ready")
    async with page.expect_download() as fetching:
        await page.keyboard.press("Enter")
    archive = tmp_path / "fetched.tar"
    await (await fetching.value).save_as(archive)
    export = (await link.get_attribute("href") or "").split("/")[3]
    bag = await asyncio.to_thread(_unpacked, archive, tmp_path, export)
    report = await asyncio.to_thread(verify.verify_bundle, bag)
    assert (report.code, report.recordings, len(report.copies)) == (0, [recording], 1), report
    # Whoever comes back finds it.
    await page.reload()
    await expect(page.get_by_role("link", name="下载证据包")).to_be_visible(timeout=20_000)
    assert not troubles, troubles
    await page.close()


def _unpacked(archive: Path, folder: Path, export: str) -> Path:
    from uuid import UUID

    return unpacked(archive.read_bytes(), folder, UUID(export))


STATE = {
    **{"id": "0193570c-0000-7000-8000-000000000000", "purpose": "spot-check", "at": "2026-11-25T00:00:00Z"},
    **{"expires_at": "2026-12-02T00:00:00Z", "copies": False, "bytes_done": 0, "bytes_total": 0, "size": 0},
    **{"reason": None, "detail": None, "download": None},
}


async def test_on_a_phone_progress_is_shown_a_lost_server_is_said_and_what_fails_gives_its_reason(
    local_system: System, browser: Browser
) -> None:
    """The service's answers are staged, since a real export is over before it can be looked at."""
    recording = await asyncio.to_thread(record, local_system)
    page = await open_page(browser, local_system, recording, phone=True)
    underway = STATE | {"state": "preparing", "bytes_done": 700_000_000, "bytes_total": 1_600_000_000}
    failed = STATE | {"state": "failed", "reason": "stored-differs", "detail": "片段 3：存储中的内容与封存时不符。"}
    answer = underway
    away = False

    async def staged(route: object) -> None:
        if away:
            await route.abort()  # type: ignore[attr-defined]
        else:
            await route.fulfill(json=answer)  # type: ignore[attr-defined]

    await page.route("**/v1/exports", staged)
    await page.route(f"**/v1/exports/{STATE['id']}", staged)
    await page.select_option("#export-purpose", "spot-check")
    await page.get_by_role("button", name="导出可验证的证据包").click()
    await expect(page.locator("#export progress")).to_be_visible()
    await expect(page.locator("#export [data-words]")).to_contain_text("700 MB / 1.60 GB")
    await expect(page.get_by_role("button", name="导出可验证的证据包")).to_be_disabled()
    await page.locator("#export").scroll_into_view_if_needed()
    await shoot(page, "export-preparing-phone")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    away = True
    await expect(page.locator("#export [data-error]")).to_contain_text("正在重试", timeout=15_000)
    away, answer = False, failed
    await expect(page.locator("#export [data-error]")).to_contain_text("与封存时不符", timeout=30_000)
    await expect(page.locator("#export progress")).to_be_hidden()
    await expect(page.get_by_role("button", name="导出可验证的证据包")).to_be_enabled()
    await shoot(page, "export-failed-phone")
    await page.close()
