"""Closing: the terminal signs what it recorded, and checks that the vault's manifest says the same.

Where the server closed a recording in the terminal's absence, the terminal signs a *supplement* over what the
server's manifests do not list."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.terminal.api import Api
from services.terminal.carried import Carried
from services.vault.contract import verify, wire
from services.vault.contract.channel import raw_public


class ManifestRejected(Exception):
    """The answer to a closing does not say what was closed, or not with a pinned key."""

    @property
    def by_unknown_key(self) -> bool:
        return isinstance(self.__cause__, verify.Untrusted)


def closing_payload(recording: Carried, *, interrupted: bool) -> dict[str, Any]:
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
    } | ({"taken_over": recording.taken_over} if recording.taken_over else {})


def supplement_payload(
    recording: Carried, leaves: Sequence[wire.SegmentAsk], number: int, *, interrupted: bool
) -> dict[str, Any]:
    """A closing of what came after the recording was closed: it names the sequences it speaks of."""
    ends = (leaf.started_at + timedelta(milliseconds=leaf.duration_ms) for leaf in leaves)
    return {
        "recording": str(recording.id),
        "number": number,
        "sequences": [leaf.sequence for leaf in leaves],
        "count": len(leaves),
        "root": root_of((leaf.sequence, leaf.sha256, leaf.size) for leaf in leaves),
        "missing": [],
        "started_at": wire.rfc3339(min(leaf.started_at for leaf in leaves)),
        "ended_at": wire.rfc3339(max(ends)),
        "interrupted": interrupted,
    }


async def unlisted(
    api: Api, recording: Carried, keys: Mapping[str, Ed25519PublicKey]
) -> tuple[int, list[wire.SegmentAsk], wire.ClosedRecording | None]:
    """How many manifests a recording has, what of ours none of them lists, and the last of them.
    Raises CallFailed, ManifestRejected."""
    number, listed, last = 0, set[tuple[int, str]](), None
    while (closed := await api.manifest(recording.id, number)) is not None:
        listed |= _listed_in(closed, recording, number, keys)
        number, last = number + 1, closed
    return number, [leaf for leaf in recording.leaves() if (leaf.sequence, leaf.sha256) not in listed], last


def _listed_in(
    closed: wire.ClosedRecording, recording: Carried, number: int, keys: Mapping[str, Ed25519PublicKey]
) -> set[tuple[int, str]]:
    """What a manifest that we did not ask for accounts for, whoever closed it. Raises ManifestRejected."""
    try:
        manifest = verify.verify_envelope(closed.manifest.model_dump(), keys, wire.MANIFEST_TYPE)
        if (manifest["recording"], manifest["number"]) != (str(recording.id), number):
            raise ManifestRejected("不是这条记录的这一份清单")
        listed = {(each["sequence"], each["sha256"]) for each in manifest["segments"]}
        return listed | {(each["of_sequence"], each["sha256"]) for each in manifest["beside"]}
    except verify.VerificationError as error:
        raise ManifestRejected(error.chinese) from error
    except (KeyError, TypeError) as error:
        raise ManifestRejected("内容不全") from error


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
        if manifest["number"] != ours.get("number", 0):
            raise ManifestRejected("不是这一份清单")
        for name in ("recording", "count", "root", "missing", "started_at", "ended_at"):
            if manifest[name] != ours[name]:
                raise ManifestRejected(f"{name} 与结束声明不同")
        over = None if ours["missing"] else ours.get("taken_over")
        if over and manifest["whole"] != {"sha256": over["sha256"], "size": over["size"]}:
            raise ManifestRejected("整个文件的摘要与结束声明不同")
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
