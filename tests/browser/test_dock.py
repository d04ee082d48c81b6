"""What a dock took over is told from what was streamed, in the list and on its page, on a phone too."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Browser, expect

from tests.browser.test_live import shoot, sign_in
from tests.browser.test_sources import phone_fits
from tests.flows.docking import dock, media
from tests.system import System

NAME = "DCIM/100MEDIA/当事人张某某与执法人员谈话记录-20261126-第一段-现场录像.MP4"


async def test_a_file_is_shown_as_not_live_with_its_reason(
    local_system: System, browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "card" / NAME
    file.parent.mkdir(parents=True)
    media(file.parent, "mp4", file.name)
    done = dock(local_system.new_terminal("browser-dock"), tmp_path / "card", "--note", "<b>内存卡修复</b>")
    assert done.code == 0, done.said
    recording = done.taken()[NAME]["recording"]

    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    await sign_in(page, local_system, "li")
    row = page.locator("tr", has=page.locator(f"a[href='/recordings/{recording}']"))
    await expect(row).to_contain_text("非实时 · 无网络")
    await expect(row).to_contain_text(NAME)
    await shoot(page, "dock-list")
    await phone_fits(page)
    await shoot(page, "dock-list-phone")

    await page.goto(f"{local_system.stack.api_url}/recordings/{recording}")
    facts = page.get_by_role("region", name="基本情况")
    for words in ("接管的文件", "无网络：<b>内存卡修复</b>", NAME, "2026-11-20 09:02:03", "已核对，与封存的内容一致"):
        await expect(facts).to_contain_text(words)
    await expect(facts).to_contain_text(done.taken()[NAME]["sha256"])
    await phone_fits(page)
    await shoot(page, "dock-file-phone")
    await page.set_viewport_size({"width": 1280, "height": 900})
    await shoot(page, "dock-file")
    await page.close()
