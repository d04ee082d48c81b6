"""What every table of the vault is made of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import DateTime
from sqlmodel import MetaData, SQLModel

Time: Any = DateTime(timezone=True)


class Table(SQLModel):
    metadata = MetaData(schema="vault")
