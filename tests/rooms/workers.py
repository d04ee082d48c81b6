"""A worker as a process of its own: `python -m tests.rooms.workers DSN KIND FOLDER MODE`.

Its handler leaves `<subject>.begun.<pid>` when it begins and `<subject>.done.<pid>` when it ends. MODE `hang` never
ends, `fail` raises, `do` does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

from services.jobs import Jobs


class Told:
    def __init__(self, folder: Path):
        self._folder = folder

    async def died(self, kind: str, subject: str, reason: str) -> None:
        (self._folder / f"{subject}.died").write_text(reason)

    async def done(self, kind: str, subject: str) -> None:
        (self._folder / f"{subject}.told-done").touch()


async def main(dsn: str, kind: str, folder: Path, mode: str) -> None:
    async def handler(subject: str) -> None:
        (folder / f"{subject}.begun.{os.getpid()}").touch()
        if mode == "hang":
            await asyncio.Event().wait()
        if mode == "fail":
            raise ValueError("made to fail")
        await asyncio.sleep(0.2)
        (folder / f"{subject}.done.{os.getpid()}").touch()

    jobs = Jobs(dsn, "vault", Told(folder), lease=timedelta(seconds=2), tries=2)
    jobs.handle(kind, handler)
    await jobs.work()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
