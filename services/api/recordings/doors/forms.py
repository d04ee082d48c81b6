"""A form of two parts, `metadata` and behind it `file`, parsed as it comes: no part of it ever lies on a disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.api.errors import FormUnfit
from services.api.recordings.doors import limits

_NAMES = (b"metadata", b"file")


class Form:
    """First `about`, which reads no further than the metadata; then `chunks`, the bytes of the file, whose name is
    known by then. Raises FormUnfit from either."""

    def __init__(self, content_type: str, incoming: AsyncIterator[bytes]):
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise FormUnfit
        self._incoming = incoming
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
                "on_header_end": self._header,
                "on_headers_finished": self._headers_finished,
                "on_part_data": lambda data, start, end: self._came.append((self._parts, data[start:end])),
                "on_part_end": lambda: self._came.append((self._parts, None)),
                "on_end": self._end,
            },
            max_header_size=limits.PART_HEADERS_BYTES,
        )
        self._came: list[tuple[int, bytes | None]] = []
        self._header_name, self._header_value = bytearray(), bytearray()
        self._disposition = b""
        self._parts = 0
        self._ended = False
        self.file_name: str | None = None

    async def about(self) -> bytes:
        about = bytearray()
        while True:
            while self._came:
                part, data = self._came.pop(0)
                if data is None:
                    return bytes(about)
                about += data
                if part != 1 or len(about) > limits.ABOUT_BYTES:
                    raise FormUnfit
            await self._more()

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Ends where the file does, and whatever is behind it is refused."""
        while True:
            while self._came:
                part, data = self._came.pop(0)
                if part != 2:
                    raise FormUnfit
                if data:
                    yield data
            if self._ended:
                return
            await self._more()

    async def _more(self) -> None:
        chunk = await anext(self._incoming, None)
        if chunk is None:
            raise FormUnfit("the form does not end")
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise FormUnfit from error

    def _begin(self) -> None:
        self._parts += 1
        self._disposition = b""
        if self._parts > len(_NAMES):
            raise FormUnfit

    def _header(self) -> None:
        if bytes(self._header_name).lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != _NAMES[self._parts - 1]:
            raise FormUnfit
        if self._parts == 2:
            self.file_name = options.get(b"filename", b"").decode("utf-8", "replace") or None

    def _end(self) -> None:
        if self._parts != len(_NAMES):
            raise FormUnfit
        self._ended = True
