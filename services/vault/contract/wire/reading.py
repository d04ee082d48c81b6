"""Tickets to read by, which never reach a viewer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.vault.contract.wire.base import MAX_ITEMS, Message
from services.vault.contract.wire.sealing import SegmentName


class ReadTicketsRequest(Message):
    items: Annotated[list[SegmentName], Field(min_length=1, max_length=MAX_ITEMS)]


class ReadTicket(SegmentName):
    """A short-lived GET that passes only between vault, api and store, never to a viewer."""

    url: str
    headers: dict[str, str]
    size: int


class ReadTickets(Message):
    tickets: list[ReadTicket]
