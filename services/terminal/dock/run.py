"""One run of `dock`: look, hash one file at a time, send several side by side, say what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from services.terminal.carried import Carried
from services.terminal.dock.journal import Docked, DockedFile, Journal, planned
from services.terminal.dock.looking import Found, Left, Look, Why, look, require_fit
from services.terminal.dock.reading import FileChanged, FileUnreadable, Stopped, Taken, mark_of, take
from services.terminal.dock.telling import Telling
from services.terminal.heartbeat import Heartbeat
from services.terminal.home import Enrolled, Home
from services.terminal.line import RecordingStuck
from services.terminal.running import Running
from services.terminal.uplink import Uplink
from services.vault.contract import wire

FILES_AT_ONCE = 4
LOOK_SECONDS = 2.0
"""Between two looks of `--watch`."""
AGAIN_SECONDS = 60.0
"""Until `--watch` tries a file again that could not be taken over."""


@dataclass(frozen=True)
class Orders:
    """`settled_seconds`: how long a file must have been as it is before `watch` takes it. `abandon`: files that were
    begun and are not in the folder any more are closed as incomplete."""

    folder: Path
    reason: wire.TakeoverReason
    note: str | None
    watch: bool
    settled_seconds: float
    drain_seconds: float
    rehash: bool
    abandon: bool
    forget: bool


class _Stock:
    """The recorder's folder holds the bytes, so no spool can be full."""

    limit, full = 0, False

    def __init__(self, carried: dict[UUID, Carried]):
        self._carried = carried

    @property
    def used(self) -> int:
        return sum(ask.size for one in list(self._carried.values()) for ask in list(one.pending.values()))


class Dock(Running):
    def __init__(self, home: Home, enrolled: Enrolled, telling: Telling, orders: Orders):
        super().__init__(home, enrolled, telling, drain_seconds=orders.drain_seconds)
        self._folder = require_fit(orders.folder, home.path)
        self._orders, self._telling, self._journal = orders, telling, Journal(home.path)
        self._carried: dict[UUID, Carried] = {}
        self._heartbeat = Heartbeat(self._api, _Stock(self._carried), recordings=self._carried)
        self._hashing = asyncio.Lock()
        self._seen: set[UUID] = set()
        """Of what was begun, that which lies in the folder."""

    async def run(self) -> int:
        """The exit code."""
        self._listen_to_signals()
        await asyncio.to_thread(self._journal.load)
        for path in self._journal.unreadable:
            self._telling.tell("error", reason=f"有一个接管记录无法读取：{path}。请勿删除，联系管理员处理。")
        async with self._api, self._asking_for_keys(), self._heartbeat.beating():
            await self._finish_begun()
            await (self._watch() if self._orders.watch else self._once())
        return self._telling.summary()

    async def _once(self) -> None:
        found = await asyncio.to_thread(look, self._folder)
        self._tell(found, found.files)
        await self._each(found.files)
        await self._absent()

    async def _watch(self) -> None:
        """Until the first signal."""
        since: dict[Found, float] = {}
        not_before: dict[Found, float] = {}
        missing = False
        while not self._stopping.is_set():
            try:
                found = await asyncio.to_thread(look, self._folder)
            except OSError as error:
                found = Look()
                if not missing:
                    self._telling.tell("error", reason=f"文件夹读不到了（{error.strerror}），等它回来。")
                missing = True
            else:
                missing = False
            now = time.monotonic()
            since = {each: since.get(each, now) for each in found.files}
            not_before = {each: at for each, at in not_before.items() if each in since}
            settled = [each for each in found.files if now - since[each] >= self._orders.settled_seconds]
            ready = [each for each in settled if not_before.get(each, now) <= now]
            if ready or found.left:
                self._tell(found, ready)
            if ready:
                await self._each(ready)
                for each in ready:
                    left = each.name in self._telling.left
                    not_before[each] = time.monotonic() + AGAIN_SECONDS if left else float("inf")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), LOOK_SECONDS)

    def _tell(self, found: Look, files: list[Found]) -> None:
        self._telling.files += len(files)
        self._telling.bytes += sum(each.size for each in files)
        if files or not self._orders.watch:
            size = sum(each.size for each in files)
            about = {"folder": str(self._folder), "files": len(files), "bytes": size, "megabytes": size / 1e6}
            self._telling.tell("dock-found", **about)
        for left in found.left:
            self._telling.leave(left)

    async def _each(self, files: list[Found]) -> None:
        """Take over all of these, or as many as go until a signal."""
        waiting = deque(files)
        unsent: dict[Found, None] = dict.fromkeys(files)

        async def work() -> None:
            while waiting and not self._stopping.is_set():
                found = waiting.popleft()
                await self._one(found)
                del unsent[found]

        await self._drained([asyncio.create_task(work()) for _ in range(FILES_AT_ONCE)])
        for found in unsent:
            self._telling.leave(Left(found.name, "unsent"))

    async def _one(self, found: Found) -> None:
        file: DockedFile | None = None
        why: Why
        detail = ""
        try:
            file = await self._planned(found)
            if file is not None:
                await self._send(file)
            return
        except Stopped:
            why = "unsent"
        except FileChanged:
            why = "changed"
        except FileUnreadable as error:
            why, detail = ("gone" if file else "unreadable"), error.detail
        except RecordingStuck as error:
            why, detail = "refused", str(error)
        except OSError as error:
            why, detail = "disk", error.strerror or ""
        if file is not None:
            file.source = None
            if why == "changed":
                await self._give_up(file)
        self._leave(found.name, why, detail, found.size, file)

    def _leave(self, name: str, why: Why, detail: str, size: int, file: DockedFile | None) -> None:
        self._telling.leave(Left(name, why, detail), size, str(file.id) if file else "")

    async def _planned(self, found: Found) -> DockedFile | None:
        """The file ready to be sent; None where it is taken over already, or its content lies in the folder twice."""
        mark = await asyncio.to_thread(mark_of, found)
        known = None if self._orders.rehash else self._journal.known(mark=mark)
        file = None if known else self._journal.plans.get(mark)
        if known is None and file is None:
            # One at a time: cards read best so, and the same content is not begun twice.
            async with self._hashing:
                known, file = await self._hashed(found, mark)
                return self._bound(found, known, file)
        return self._bound(found, known, file)

    async def _hashed(self, found: Found, mark: str) -> tuple[Docked | None, DockedFile | None]:
        taken = await asyncio.to_thread(take, found, lambda: not self._stopping.is_set())
        if (known := self._journal.known(sha256=taken.sha256)) is not None:
            if self._journal.known(mark=mark) is None:
                await asyncio.to_thread(self._journal.also, mark, known)
            return known, None
        return None, self._journal.of_digest(taken.sha256) or await self._plan(found, mark, taken)

    def _bound(self, found: Found, known: Docked | None, file: DockedFile | None) -> DockedFile | None:
        if file is not None and file.source is None:
            file.source = found
            self._seen.add(file.id)
            return file
        if file is not None:
            known = Docked(file.id, file.plan.sha256)
        if known is not None:
            self._telling.came("already", found.name, found.size, str(known.recording), sha256=known.sha256)
        return None

    async def _plan(self, found: Found, mark: str, taken: Taken) -> DockedFile:
        plan = planned(
            taken,
            mark=mark,
            name=found.name,
            at=datetime.now(UTC),
            monotonic_ms=round(time.monotonic() * 1000),
            reason=self._orders.reason,
            note=self._orders.note,
        )
        return await asyncio.to_thread(self._journal.plan, plan)

    async def _send(self, file: DockedFile) -> None:
        """Until it is closed. Raises FileChanged, FileUnreadable, RecordingStuck, OSError (the disk)."""
        plan = file.plan
        await self._carry(file, interrupted=not file.complete and not file.pending)
        if file.complete:
            self._telling.came(
                "taken-over", plan.name, plan.size, str(file.id), sha256=plan.sha256, format=plan.format
            )
        else:
            self._leave(plan.name, "changed", "", 0, file)

    async def _carry(self, file: DockedFile, *, interrupted: bool) -> None:
        self._carried[file.id] = file
        self._telling.going(file)
        try:
            parts = (file, self._api, self._key, self._pinned, self._telling)
            uplink = Uplink(*parts, forget=self._orders.forget)
            uplink.end(interrupted=interrupted)
            await uplink.run()
        finally:
            self._carried.pop(file.id, None)

    async def _give_up(self, file: DockedFile) -> None:
        """Close what was sealed as incomplete; where nothing was, forget it."""
        if file.complete:
            return
        file.give_up()
        try:
            if file.receipted:
                await self._carry(file, interrupted=True)
            else:
                await asyncio.to_thread(file.drop)
        except (RecordingStuck, OSError) as error:
            self._telling.tell("error", reason=f"{file.plan.name} 已封存的部分还没有关闭：{error}")

    async def _finish_begun(self) -> None:
        """What an earlier run sent whole, or began to close, needs its file no more."""
        begun = [file for file in self._journal.plans.values() if not file.pending]

        async def finish(file: DockedFile) -> None:
            try:
                await self._send(file)
            except (RecordingStuck, OSError) as error:
                self._leave(file.plan.name, "refused", str(error), 0, file)

        await self._drained([asyncio.create_task(finish(file)) for file in begun])

    async def _absent(self) -> None:
        """What was begun and is not in this folder now."""
        for file in list(self._journal.plans.values()):
            if file.id in self._seen or self._stopping.is_set():
                continue
            if self._orders.abandon:
                await self._give_up(file)
                self._telling.tell("abandoned", file=file.plan.name, recording=str(file.id))
            else:
                detail = "不在这个文件夹里；找不回时加 --abandon 按不完整关闭"
                self._leave(file.plan.name, "unsent", detail, 0, file)
