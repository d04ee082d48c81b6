"""A TCP link that can fail: it passes bytes as they are, or drops everything, or swallows it in silence."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Literal, Self

from tests.system import free_ports


class Link:
    """Listens on `port` and leads to `target` on this machine.

    `cut` resets every connection and each new one; `silence` accepts and never answers, and what was caught
    in it stays silent for ever; `trickle` passes so many bytes a second, each way of each connection; `mend` lets new
    connections through, and lets go of those that trickle.
    """

    def __init__(self, target: int, port: int | None = None):
        self.target = target
        self.port = port or free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.refused = 0
        self.swallowed = 0
        self._state: Literal["open", "cut", "silent"] = "open"
        self._rate = 0
        self._ends: list[set[asyncio.StreamWriter]] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"link to {target}")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def cut(self) -> None:
        self._do("cut")

    def silence(self) -> None:
        self._do("silent")

    def trickle(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second

    def mend(self) -> None:
        self._rate = 0
        self._do("open")

    def _do(self, state: Literal["open", "cut", "silent"]) -> None:
        async def change() -> None:
            self._state = state
            if state == "cut":
                self._abort_all()
            elif state == "silent":
                self.swallowed += len(self._ends)
                self._ends.clear()  # nobody passes their bytes on any more, and nobody closes them

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(10)

    def _abort_all(self) -> None:
        for ends in self._ends:
            for end in ends:
                end.transport.abort()
        self._ends.clear()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        self._held: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self._ready.set()
        await self._end.wait()
        server.close()
        for writer in self._held:
            writer.transport.abort()
        # What is caught in silence waits for nothing.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._held.append(writer)
        if self._state == "cut":
            self.refused += 1
            writer.transport.abort()
            return
        if self._state == "silent":
            self.swallowed += 1
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._held.append(far_writer)
        ends = {writer, far_writer}
        self._ends.append(ends)
        await asyncio.gather(self._pass_on(reader, far_writer, ends), self._pass_on(far_reader, writer, ends))

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: set[asyncio.StreamWriter]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                while data:
                    some, data = (data[: self._rate], data[self._rate :]) if self._rate else (data, b"")
                    if ends not in self._ends:
                        return
                    writer.write(some)
                    await writer.drain()
                    if data:
                        await asyncio.sleep(1)
        if ends in self._ends:
            self._ends.remove(ends)
            for end in ends:
                end.close()
