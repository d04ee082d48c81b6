"""How values read on a page, and that no page carries what its security policy would refuse."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from services.api.console.filters import duration, shanghai, short, size
from services.api.console.pages import TEMPLATES, environment, render, static

NOW = datetime(2026, 11, 23, 17, 34, 40, 999_000, tzinfo=UTC)


def test_a_time_is_shown_on_the_clock_of_shanghai() -> None:
    assert shanghai(NOW) == "2026-11-24 01:34:40"
    assert shanghai(datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=9)))) == "2025-12-31 23:00:00"


def test_a_time_from_a_receipt_is_shown_alike() -> None:
    assert shanghai("2026-11-23T09:34:40.123Z") == "2026-11-23 17:34:40"


def test_an_absent_time_is_a_dash() -> None:
    assert shanghai(None) == "—"


@pytest.mark.parametrize("value", [NOW.replace(tzinfo=None), "2026-11-23T09:34:40", "yesterday"])
def test_a_time_without_a_zone_is_refused(value: datetime | str) -> None:
    with pytest.raises(ValueError, match=r"without a zone|Invalid isoformat"):
        shanghai(value)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_995, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (7_200_000_000, "7.20 GB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_bytes_are_shown_in_decimal_units(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 秒"),
        (1.04, "1.0 秒"),
        (9.99, "9.9 秒"),
        (10, "10 秒"),
        (59.999, "59 秒"),
        (60, "1 分 00 秒"),
        (187.5, "3 分 07 秒"),
        (3600, "1 小时 00 分 00 秒"),
        (90_061, "25 小时 01 分 01 秒"),
    ],
)
def test_a_duration_never_claims_more_than_was_recorded(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_negative_amounts_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        size(-1)
    with pytest.raises(ValueError, match="negative"):
        duration(-0.5)


def test_a_short_digest_is_its_first_eight_characters() -> None:
    assert short("9f86d081884c7d65") == "9f86d081"


@pytest.mark.parametrize("name", sorted(path.name for path in TEMPLATES.glob("*.html")))
def test_a_template_compiles_and_carries_no_inline_script_or_style(name: str) -> None:
    environment().get_template(name)
    source = (TEMPLATES / name).read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|hx-on|javascript:|\|\s*safe", source)
    assert not re.search(r"hx-trigger=\"[^\"]*\[|hx-(vals|headers)=\W*js:", source), "needs eval"


def test_a_page_escapes_what_people_typed() -> None:
    page = render("sign_in.html", error="<b>", login='"><script>', demo=False)
    assert "&lt;b&gt;" in page and "<script>" not in page


@pytest.mark.parametrize(
    ("lock", "said"), [("none", "不具备对象锁定（Object Lock）效力"), ("compliance", "合规模式"), (None, "")]
)
def test_the_footer_says_how_the_store_locks(lock: str | None, said: str) -> None:
    page = render("problem.html", status=404, title="没有找到", detail="", trace_id="", store_lock=lock)
    footer = page[page.index("<footer") :]
    assert said in footer
    assert ("不具备" in footer) is (lock == "none")


def test_the_address_of_a_static_file_changes_with_its_bytes() -> None:
    assert re.fullmatch(r"/static/console\.css\?v=[0-9a-f]{8}", static("console.css"))
    with pytest.raises(FileNotFoundError):
        static("absent.css")
