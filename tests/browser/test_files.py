"""A file is brought and looked at once its purpose is logged, and footage is asked for: on a desk, on a phone."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from services.api.moments import SHANGHAI
from tests.browser.test_live import shoot, sign_in
from tests.flows.files import photo
from tests.flows.pushing import Source
from tests.system import System

SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


async def begun(browser: Browser, size: str, system: System) -> tuple[Page, list[str]]:
    page = await browser.new_page(viewport=SIZES[size])  # type: ignore[arg-type]
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    await sign_in(page, system, "wang")
    return page, troubles


async def assert_fits(page: Page) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing lies beside the page"


@pytest.mark.parametrize("size", SIZES)
async def test_a_photo_is_brought_and_looked_at(
    local_system: System, browser: Browser, size: str, tmp_path: Path
) -> None:
    page, troubles = await begun(browser, size, local_system)
    picture = tmp_path / "现场.jpg"
    picture.write_bytes(photo(tmp_path))
    await page.goto(f"{local_system.stack.api_url}/files")
    await page.get_by_text("送一个文件").click()
    await page.fill("#title", f"现场照片（{size}）")
    await page.set_input_files("#chosen", picture)
    await shoot(page, f"files-bring-{size}")
    await page.get_by_role("button", name="送交封存").click()
    await expect(page.get_by_role("heading", name=f"现场照片（{size}）")).to_be_visible(timeout=30_000)
    await assert_fits(page)
    await page.select_option("select[name=purpose]", "case-handling")
    await page.get_by_role("button", name="记录用途并查看").click()
    drawn = "() => { const i = document.querySelector('.stage img'); return i && i.naturalWidth > 0 }"
    await page.wait_for_function(drawn)
    await shoot(page, f"file-{size}")
    await page.goto(f"{local_system.stack.api_url}/files?kind=photo")
    await expect(page.get_by_role("link", name=f"现场照片（{size}）")).to_be_visible()
    await assert_fits(page)
    await shoot(page, f"files-{size}")
    assert not troubles
    await page.close()


@pytest.mark.parametrize("size", SIZES)
async def test_footage_is_asked_for_and_handed_over(local_system: System, browser: Browser, size: str) -> None:
    Source(local_system, "hall-camera", f"大厅摄像机（{size}）")
    page, troubles = await begun(browser, size, local_system)
    await page.goto(f"{local_system.stack.api_url}/footage")
    if not await page.locator("#reason").is_visible():
        await page.get_by_text("提出调取").first.click()
    begins = datetime.now(SHANGHAI) - timedelta(days=25)
    await page.get_by_label(f"大厅摄像机（{size}）").check()
    await page.fill("#from", f"{begins:%Y-%m-%dT%H:%M:00}")
    await page.fill("#to", f"{begins + timedelta(hours=1):%Y-%m-%dT%H:%M:00}")
    await page.fill("#reason", f"核对受理经过（{size}）")
    await page.get_by_role("button", name="提出调取").click()
    await expect(page.get_by_text(f"核对受理经过（{size}）").first).to_be_visible()
    await assert_fits(page)
    await shoot(page, f"footage-asked-{size}")
    await page.goto(f"{local_system.stack.api_url}/footage")
    await expect(page.get_by_role("alert").first).to_contain_text("七日内到期")
    await assert_fits(page)
    await shoot(page, f"footage-{size}")
    assert not troubles
    await page.close()
