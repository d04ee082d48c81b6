"""Where the bytes lie: S3 with Object Lock, or the local write-once folder, behind one port."""

from __future__ import annotations

from services.vault.settings import Settings
from services.vault.stores.local import LocalStore
from services.vault.stores.port import Store
from services.vault.stores.s3 import S3Store


def open_store(settings: Settings, local_secret: bytes) -> Store:
    """The store that the settings name; nothing is connected yet."""
    if settings.store == "s3":
        return S3Store(settings)
    assert settings.local_root and settings.local_public_url
    return LocalStore(settings.local_root, settings.local_public_url, local_secret)
