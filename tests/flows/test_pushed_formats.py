"""What an unmodified ffmpeg pushes is exported under the extension of what it is, and names the gateway between."""

from __future__ import annotations

import json

import pytest

from deploy.local.demo import stock_commands
from services.vault.contract import verify, wire
from tests.flows.evidence import assert_plays
from tests.flows.pushing import FMP4, TS, Source
from tests.flows.test_pages import blocks, run
from tests.flows.test_streaming import run_stock
from tests.system import System


@pytest.mark.parametrize(
    ("name", "options", "gateway"), [("live.ts", TS, "MediaMTX 1.15.3"), ("live.mp4", FMP4, None)], ids=["ts", "mp4"]
)
def test_a_push_is_exported_as_what_it_is(
    local_system: System, name: str, options: tuple[str, ...], gateway: str | None
) -> None:
    source = Source(local_system, "gateway", remuxed_by=gateway)
    with source.push(name, *options) as pushing:
        _, told = pushing.communicate(timeout=60)
    assert pushing.returncode == 0, told
    (recording,) = source.closed()
    bag = local_system.export(recording["id"])
    report = verify.verify_bundle(bag)
    assert report.code == 0, report
    extension = name.partition(".")[2]
    media = bag / f"data/{recording['id']}.{extension}"
    assert [path.name for path in (bag / "data").iterdir()] == [media.name]
    assert_plays(media)
    envelope = json.loads((bag / f"recordings/{recording['id']}/manifest.dsse.json").read_bytes())
    manifest = wire.Envelope.model_validate(envelope).decoded()
    assert wire.media_of(manifest) == {"format": extension, "remuxed_by": gateway}
    for command in stock_commands(bag):
        done = run_stock(command, bag)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    shown = run("".join(blocks("verifying.md")[1:]), bag)
    assert shown.returncode == 0, shown.stdout + shown.stderr


@pytest.mark.parametrize("name", ["a\nb", "\u202egpj", "a" * 65, " "])
def test_a_gateway_s_name_that_no_vault_would_take_is_refused_at_once(local_system: System, name: str) -> None:
    with local_system.sign_in("admin") as admin:
        made = admin.post("/v1/recorders", json={"name": "网关", "kind": "gateway"}).json()
        url = f"/v1/recorders/{made['id']}/push-addresses"
        assert admin.post(url, json={"remuxed_by": name}).status_code == 422
