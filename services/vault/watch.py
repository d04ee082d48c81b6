"""The store as a whole, looked at again while running: its clock, and how the evidence bucket is set.

A vault and a store whose clocks differ would lock to other dates than they sign, and a store whose clock jumps
ahead lets go of locks too early. So past `MAX_DRIFT` no ticket is given out until the clocks agree again; what
was put already is still committed. Stores have been seen to lose a bucket's lock configuration at a restart.
"""

from __future__ import annotations

import socket

from services.vault.alarms import Alarms
from services.vault.errors import StoreUnavailable
from services.vault.stores import conformance
from services.vault.stores.port import Store

CLOCK, CONFIGURATION, UNAVAILABLE = "clock-drift", "store-configuration", "store-unavailable"


class Watch:
    """`drifts`: whether tickets are stopped. It is as of the last look, and stays so while the store is away."""

    def __init__(self, store: Store, alarms: Alarms):
        self._store, self._alarms = store, alarms
        # The clock that differs may be this machine's alone.
        self._here = socket.gethostname()
        self.drifts = False

    async def look(self) -> None:
        """One look; whatever differs is an alarm until it no longer does."""
        try:
            drift = await self._store.drift()
            self.drifts = abs(drift) > conformance.MAX_DRIFT
            findings = await conformance.configuration(self._store)
        except StoreUnavailable as error:
            await self._alarms.sound(UNAVAILABLE, self._here, f"存储没有应答：{error}")
            return
        await self._alarms.clear(UNAVAILABLE, self._here)
        told = f"{conformance.told_drift(drift)}，已停止发放上传凭单" if self.drifts else ""
        await self._alarms.settle(CLOCK, self._here, told)
        for finding in findings:
            await self._alarms.settle(CONFIGURATION, finding.slug, finding.seen)
