"""What the parts of a result say against each other. Facts are stated, and refuse nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from services.api.moments import SHANGHAI


def facts_of(about: Mapping[str, Any]) -> list[str]:
    """`certificate-expired`: the day of the measurement, by the bureau's clock, is behind the certificate's last."""
    measured, expires = about.get("measured_at"), about.get("certificate_expires_on")
    if measured is None or expires is None:
        return []
    day = datetime.fromisoformat(measured).astimezone(SHANGHAI).date()
    return ["certificate-expired"] if day > date.fromisoformat(expires) else []
