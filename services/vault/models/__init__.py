"""The vault's tables (schema `vault`, its own role). Migrations are the truth; these mirror them."""

from __future__ import annotations

from services.vault.models.alarms import Alarm
from services.vault.models.base import Table
from services.vault.models.exports import Export, ExportFile, ExportItem, ExportPiece
from services.vault.models.keeping import HeldRecording, Hold, Order, Term, Tombstone
from services.vault.models.keys import Custodian, Enrolment, KeyRecord
from services.vault.models.log import (
    AuthorityRecord,
    Cosignature,
    LogCheckpoint,
    LogEntry,
    LogHead,
    LogPending,
    LogTile,
    Rebuild,
    Timestamp,
    WitnessRecord,
)
from services.vault.models.recordings import KeptFile, Manifest, Recording, Segment, Stray

__all__ = [
    "Alarm",
    "AuthorityRecord",
    "Cosignature",
    "Custodian",
    "Enrolment",
    "Export",
    "ExportFile",
    "ExportItem",
    "ExportPiece",
    "HeldRecording",
    "Hold",
    "KeptFile",
    "KeyRecord",
    "LogCheckpoint",
    "LogEntry",
    "LogHead",
    "LogPending",
    "LogTile",
    "Manifest",
    "Order",
    "Rebuild",
    "Recording",
    "Segment",
    "Stray",
    "Table",
    "Term",
    "Timestamp",
    "Tombstone",
    "WitnessRecord",
]
