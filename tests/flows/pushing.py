"""An unmodified ffmpeg that pushes, and what it needs for that."""

from __future__ import annotations

import subprocess
from typing import Any

from services.terminal.capture import find_ffmpeg
from tests.flows.evidence import eventually
from tests.system import System

FMP4 = ("-f", "mp4", "-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-method", "PUT")
TS = ("-f", "mpegts", "-method", "PUT")
HLS = ("-f", "hls", "-method", "PUT", "-http_persistent", "1", "-hls_time", "1", "-hls_list_size", "3")


class Source:
    """A source of the demo bureau with one push address."""

    def __init__(self, system: System, kind: str = "encoder", **address: Any):
        self.system = system
        with system.sign_in("admin") as admin:
            made = admin.post("/v1/recorders", json={"name": f"来源 {kind}", "kind": kind})
            made.raise_for_status()
            self.id = made.json()["id"]
            given = admin.post(f"/v1/recorders/{self.id}/push-addresses", json=address)
            given.raise_for_status()
        self.address, self.url = given.json()["id"], given.json()["url"]

    def revoke(self) -> None:
        with self.system.sign_in("admin") as admin:
            admin.post(f"/v1/recorders/{self.id}/push-addresses/{self.address}/revocation").raise_for_status()

    def push(
        self, name: str, *options: str, seconds: float = 4, codec: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        """ffmpeg on its way, at real-time pace."""
        argv = [find_ffmpeg(None), "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc=size=320x180:rate=10"]
        argv += ["-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", str(seconds)]
        argv += codec or ("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac")
        argv += ["-g", "10", *options, self.url + name]
        return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def recordings(self) -> list[dict[str, Any]]:
        """Those of this source, the oldest first."""
        told = self.system.stack.postgres.run_sql(
            "SELECT coalesce(json_agg(row_to_json(r) ORDER BY r.id), '[]') FROM api.recordings r "
            f"WHERE recorder_id = '{self.id}'"
        )
        import json

        found: list[dict[str, Any]] = json.loads(told)
        return found

    def closed(self, count: int = 1) -> list[dict[str, Any]]:
        closed = ["closed"] * count
        eventually(lambda: [r["state"] for r in self.recordings()] == closed, "all are closed", timeout=60)
        return self.recordings()
