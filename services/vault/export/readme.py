"""The README of a bag: the page beside this file, with what is so in this bag."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.vault.contract import verify
from services.vault.log.witnesses import Policy

_PAGE = Path(__file__).with_name("readme.md")


def page(
    vault: str, log: str, policy: Policy, checkpoint: str, stamps: Sequence[Any], uncopied: Sequence[str]
) -> bytes:
    """`vault`: id of the key that signs the bag's list; `log`: the log's vkey."""
    text = _PAGE.read_text("utf-8")
    told = {
        "@VAULT_KEY@": vault,
        "@LOG_KEY@": log,
        "@TIMESTAMPS@": _timestamps(stamps),
        "@WITNESSES@": _witnesses(policy, checkpoint),
        "@UNCOPIED@": _uncopied(uncopied),
    }
    for place, value in told.items():
        text = text.replace(place, value)
    return text.encode()


def _uncopied(names: Sequence[str]) -> str:
    if not names:
        return ""
    listed = "、".join(f"`{name}`" for name in names[:50]) + ("……" if len(names) > 50 else "")
    return f"  没有做成副本的 / without a copy: {listed}\n"


def _witnesses(policy: Policy, checkpoint: str) -> str:
    """What the README says of who cosigned the checkpoint, and how to check it."""
    if not policy.witnesses:
        return "该日志没有设置见证人。This log has no witnesses."
    vkeys = [witness.vkey for witness in policy.witnesses]
    cosigned = verify.verify_cosignatures(checkpoint, verify.parse_witnesses(vkeys))
    lines = [
        f"该日志要求 {len(vkeys)} 个见证人中至少 {policy.need} 个联署，本检查点有 {len(cosigned)} 个。",
        f"The log asks for {policy.need} of {len(vkeys)} witnesses; this checkpoint has {len(cosigned)}.",
    ]
    if len(cosigned) < policy.need:
        lines.append("导出时其余见证人没有应答。The others did not answer when this was exported.")
    if cosigned:
        keys = " ".join(f"'{vkey}'" for vkey in vkeys)
        command = f"python3 verify.py . --witness {keys} --need {min(policy.need, len(cosigned))}"
        lines += ["", "```text", command, "```"]
    return "\n".join(lines)


def _timestamps(stamps: Sequence[Any]) -> str:
    """What the README says of tokens, with the stock command for each."""
    if not stamps:
        return "本包没有时间戳。There is no time-stamp token in this bundle."
    lines = [
        "时间戳机构为较早的检查点所盖的时间戳；`timestamps/*.consistency` 证明本包的日志是它的延续。",
        "Tokens on earlier checkpoints; `timestamps/*.consistency` prove that this log continues them.",
        "",
        "```sh",
    ]
    for stamp in stamps:
        stem, key = f"timestamps/{stamp.size}", f"keys/tsa-{stamp.tsa}.pem"
        at = int(stamp.stamped_at.timestamp())
        lines.append(
            f"openssl ts -verify -data {stem}.checkpoint -in {stem}.tsr"
            f" -partial_chain -attime {at} -CAfile {key} -untrusted {key}"
        )
    return "\n".join([*lines, "```"])
