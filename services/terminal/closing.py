"""Closing: the terminal signs what it recorded, and checks that the vault's manifest says the same."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.terminal.spool import RecordingSpool
from services.vault.contract import verify, wire
from services.vault.contract.channel import raw_public


class ManifestRejected(Exception):
    """The answer to a closing does not say what was closed, or not with the pinned key."""


def closing_payload(recording: RecordingSpool, *, interrupted: bool) -> dict[str, Any]:
    """Count, Merkle root and span of everything receipted, and what can never be sent."""
    leaves = recording.leaves()
    return {
        "recording": str(recording.id),
        "count": len(leaves),
        "root": root_of((leaf.sequence, leaf.sha256, leaf.size) for leaf in leaves),
        "missing": recording.missing(),
        "started_at": wire.rfc3339(recording.started_at),
        "ended_at": wire.rfc3339(recording.ended_at),
        "interrupted": interrupted,
    }


def signed_closing(payload: Mapping[str, Any], key: Ed25519PrivateKey) -> wire.Envelope:
    """The payload as a DSSE envelope."""
    data = wire.canonical(payload)
    signature = key.sign(verify.pae(wire.CLOSING_TYPE, data))
    return wire.Envelope(
        payloadType=wire.CLOSING_TYPE,
        payload=base64.b64encode(data).decode(),
        signatures=[wire.Signature(keyid=verify.key_id(raw_public(key)), sig=base64.b64encode(signature).decode())],
    )


def check_manifest(
    closed: wire.ClosedRecording, closing: wire.Envelope, keys: Mapping[str, Ed25519PublicKey]
) -> None:
    """The manifest is signed by a pinned key, carries our closing, and lists segments of our root.

    Raises ManifestRejected."""
    try:
        manifest = verify.verify_envelope(closed.manifest.model_dump(), keys, wire.MANIFEST_TYPE)
        ours = closing.decoded()
        for name in ("recording", "count", "root", "missing", "started_at", "ended_at"):
            if manifest[name] != ours[name]:
                raise ManifestRejected(f"{name} 与结束声明不同")
        if manifest["closing"] != closing.model_dump():
            raise ManifestRejected("其中的结束声明不是本终端所签")
        listed = root_of((s["sequence"], s["sha256"], s["size"]) for s in manifest["segments"])
        if listed != ours["root"] or len(manifest["segments"]) != ours["count"]:
            raise ManifestRejected("所列片段与结束声明不同")
    except verify.VerificationError as error:
        raise ManifestRejected(error.chinese) from error
    except (KeyError, TypeError) as error:
        raise ManifestRejected("内容不全") from error


def root_of(leaves: Iterable[tuple[int, str, int]]) -> str:
    return verify.merkle_root(verify.segment_leaf(*leaf) for leaf in leaves).hex()
