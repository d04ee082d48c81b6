"""Exports across rotations and revocations: which keys lead to trust, and what a revoked key's signature is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.vault.contract import verify
from services.vault.contract.wire import canonical
from services.vault.log import note
from tests.unit.bundles import (
    MANIFEST,
    ORIGIN,
    RECEIPTS,
    TIME,
    Json,
    Maker,
    b64,
    key_id,
    public_pem,
    refused,
    write,
    write_checkpoint,
)

Key = Ed25519PrivateKey
new = Ed25519PrivateKey.generate


def raw(key: Key) -> bytes:
    return verify.raw_key(key.public_key())


def succession(
    old: Key, fresh: Key, purpose: str = "receipt", /, *, by: tuple[Key, ...] = (), **changes: Any
) -> Json:
    """Signed by both, or by whom a test says."""
    told = {"purpose": purpose, "old": key_id(old), "new": key_id(fresh), "public_key": b64(raw(fresh))}
    payload = canonical(told | {"at": TIME, "reason": "每年更换"} | changes)
    message = verify.pae(verify.SUCCESSION_TYPE, payload)
    signatures = [{"keyid": key_id(one), "sig": b64(one.sign(message))} for one in by or (old, fresh)]
    return {"payloadType": verify.SUCCESSION_TYPE, "payload": b64(payload), "signatures": signatures}


@dataclass
class Keeper(Maker):
    """A vault whose keys changed. `vaults` and `logs` are all keys it had, the last of them current."""

    vaults: list[Key] = field(default_factory=lambda: [new(), new()])
    logs: list[Key] = field(default_factory=lambda: [new()])
    signs: int = 0
    """Which of `vaults` signs receipts and manifests."""
    handed: Callable[[Key, Key, str], Json | None] = succession
    """The succession that a `key` statement carries; None where there is none."""
    revokes: list[tuple[str, str]] = field(default_factory=list)
    """When (`first`, `middle`, `last`) the log tells of the revocation of which key id."""
    revoked_as: str = "receipt"
    """What for the revoked key was."""

    def __post_init__(self) -> None:
        self.vault, self.log = self.vaults[-1], self.logs[-1]

    def envelope(self, kind: str, payload: Json, key: Key) -> Json:
        return super().envelope(kind, payload, self.vaults[self.signs] if key is self.vault else key)

    def _enrol(self) -> None:
        for purpose, keys in (("receipt", self.vaults), ("log", self.logs)):
            for before, key in zip([None, *keys], keys, strict=False):
                told: Json = {"purpose": purpose, "key_id": key_id(key), "public_key": b64(raw(key))}
                if before is not None and self.told(key):
                    handed = self.handed(before, key, purpose)
                    told |= {"replaces": key_id(before)} | ({"succession": handed} if handed else {})
                if self.told(key):
                    self._state("key", told)
        self._revoke("first")
        super()._enrol()

    def told(self, key: Key) -> bool:
        """Whether the log tells of this key."""
        return True

    def _recording(self, root: Path, id_: str, number: int = 0, late: dict[int, int] | None = None) -> None:
        super()._recording(root, id_, number, late)
        self._revoke("last")

    def _state(self, kind: str, fields: Json, act: UUID | None = None) -> None:
        if kind == "manifest":
            self._revoke("middle")
        super()._state(kind, fields, act)

    def _revoke(self, when: str) -> None:
        for moment, identity in self.revokes:
            if moment == when:
                self._state(
                    "revocation",
                    {"purpose": self.revoked_as, "key_id": identity, "code": "compromised", "reason": "泄露"},
                )

    def _log(self, root: Path) -> None:
        super()._log(root)
        if self.signs != len(self.vaults) - 1:
            earlier = self.vaults[self.signs]
            write(root, f"keys/vault-{key_id(earlier)}.pem", public_pem(earlier.public_key()))


def trusting(*keys: Key) -> dict[str, Any]:
    return {key_id(key): key.public_key() for key in keys}


def check(keeper: Keeper, folder: Path, *trusted: Key) -> verify.Report:
    return verify.verify_bundle(keeper.make(folder / "export"), trusting(*trusted))


def test_the_current_key_is_trusted_by_itself(tmp_path: Path) -> None:
    keeper = Keeper()
    report = check(keeper, tmp_path, keeper.vault, keeper.log)
    assert (report.code, report.trusted) == (0, True), report
    assert not [english for _, _, english in report.steps if "successions" in english]


def test_an_earlier_key_leads_to_the_current_one_by_every_succession_between(tmp_path: Path) -> None:
    keeper = Keeper(vaults=[new(), new(), new()], logs=[new(), new()])
    report = check(keeper, tmp_path, keeper.vaults[0], keeper.logs[0])
    assert (report.code, report.trusted) == (0, True), report
    assert any(english.startswith("keys: 3 successions") for _, _, english in report.steps)


def test_a_checkpoint_that_the_logs_two_keys_signed_is_whole_only_with_both(tmp_path: Path) -> None:
    keeper = Keeper(logs=[new(), new()])
    bundle = keeper.make(tmp_path / "export")
    checkpoint = verify.verify_note((bundle / "checkpoint").read_text(), note.vkey(ORIGIN, raw(keeper.log)))
    told = note.sign_checkpoint(ORIGIN, checkpoint.size, checkpoint.root, keeper.logs[1], keeper.logs[0])
    one = (bundle / "checkpoint").read_text()

    def sign(text: str) -> verify.Report:
        write_checkpoint(bundle, text)
        for proof in bundle.glob("proofs/*"):
            head, _, _ = proof.read_text().partition("\n\n")
            proof.write_text(f"{head}\n\n{text}")
        keeper.list_and_sign(bundle)
        return verify.verify_bundle(bundle, trusting(keeper.vault, keeper.logs[0]))

    report = sign(told)
    assert report.code == 0, report
    # Both lines are the log's, so none is left unchecked, and one that does not hold spoils it.
    assert not [english for _, _, english in report.steps if "not verified" in english]
    other = note.sign_checkpoint(ORIGIN, checkpoint.size + 1, checkpoint.root, keeper.logs[0])
    refused(sign(one + other.splitlines(keepends=True)[-1]), 1, "checkpoint")


def test_an_earlier_checkpoint_may_be_by_any_key_that_the_log_had_and_by_no_other() -> None:
    keys = [new(), new()]
    vkeys = [note.vkey(ORIGIN, raw(key)) for key in keys]
    earlier = note.sign_checkpoint(ORIGIN, 7, bytes(32), keys[1])
    assert verify.verify_note_by_any(earlier, vkeys).size == 7
    with pytest.raises(verify.Untrusted):
        verify.verify_note_by_any(earlier, vkeys[:1])
    with pytest.raises(verify.Untrusted):
        verify.verify_note_by_any(earlier, [])
    altered = earlier.replace("\n7\n", "\n8\n")
    with pytest.raises(verify.Altered):
        verify.verify_note_by_any(altered, vkeys)


def test_a_pinned_key_that_leads_nowhere_is_not_enough(tmp_path: Path) -> None:
    keeper = Keeper(handed=lambda old, fresh, purpose: None)
    refused(check(keeper, tmp_path, keeper.vaults[0], keeper.log), 3, "keys/vault.pem")


def test_a_later_key_than_the_signing_one_does_not_lead_back(tmp_path: Path) -> None:
    later = new()
    keeper = Keeper()
    refused(check(keeper, tmp_path, later, keeper.log), 3, "keys/vault.pem")


STRANGER = new()
FORGED: dict[str, tuple[Callable[[Key, Key, str], Json], int]] = {
    "signed by the new key alone": (lambda old, fresh, p: succession(old, fresh, p, by=(fresh,)), 3),
    "signed by the old key alone": (lambda old, fresh, p: succession(old, fresh, p, by=(old,)), 3),
    "signed by a stranger as the old key": (lambda old, fresh, p: posing(succession(old, fresh, p), old), 1),
    "of another purpose": (lambda old, fresh, p: succession(old, fresh, "log" if p == "receipt" else "receipt"), 1),
    "naming another old key": (lambda old, fresh, p: succession(old, fresh, p, old=key_id(STRANGER)), 1),
    "naming another new key": (lambda old, fresh, p: succession(old, fresh, p, new=key_id(STRANGER)), 1),
    "to itself": (lambda old, fresh, p: succession(old, old, p), 1),
    "to a key that did not sign": (lambda old, fresh, p: succession(old, fresh, p, public_key=b64(raw(STRANGER))), 3),
    "of another type": (lambda old, fresh, p: succession(old, fresh, p) | {"payloadType": "application/x"}, 1),
    "without a payload": (lambda old, fresh, p: {**succession(old, fresh, p), "payload": 1}, 4),
    "with half a key": (lambda old, fresh, p: succession(old, fresh, p, public_key="AAAA"), 4),
}


def posing(envelope: Json, old: Key) -> Json:
    message = verify.pae(verify.SUCCESSION_TYPE, verify.unbase64(envelope["payload"]))
    signed = [{"keyid": key_id(old), "sig": b64(STRANGER.sign(message))}, envelope["signatures"][1]]
    return {**envelope, "signatures": signed}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_succession_leads_nowhere(tmp_path: Path, case: str) -> None:
    forge, code = FORGED[case]
    keeper = Keeper(handed=forge)
    refused(check(keeper, tmp_path, keeper.vaults[0], keeper.log), code, "keys/vault.pem")


def test_a_succession_that_is_not_in_the_log_leads_nowhere(tmp_path: Path) -> None:
    keeper = Keeper()
    bundle = keeper.make(tmp_path / "export")
    (proof,) = (one for one in bundle.glob("proofs/*") if b"succession" in verify.parse_proof(one.read_text()).extra)
    salted = verify.parse_proof(proof.read_text()).extra
    other = b64(bytes([salted[0] ^ 1]) + salted[1:])
    proof.write_text(proof.read_text().replace(b64(salted), other))
    keeper.list_and_sign(bundle)
    refused(verify.verify_bundle(bundle, trusting(keeper.vaults[0], keeper.log)), 1, f"proofs/{proof.name}")


def test_successions_that_go_round_end(tmp_path: Path) -> None:
    first, second = new(), new()
    round_ = {key_id(first): succession(first, second), key_id(second): succession(second, first)}
    with pytest.raises(verify.Altered):
        verify.follow(first.public_key(), round_, "receipt")


def test_a_key_of_which_the_log_does_not_tell_signs_nothing_in_an_export(tmp_path: Path) -> None:
    class Untold(Keeper):
        def told(self, key: Key) -> bool:
            return key is not self.vaults[0]

    keeper = Untold()
    report = check(keeper, tmp_path, keeper.vault, keeper.log)
    refused(report, 2, f"keys/vault-{key_id(keeper.vaults[0])}.pem")


def test_a_key_file_named_after_another_key_is_refused(tmp_path: Path) -> None:
    keeper = Keeper()
    bundle = keeper.make(tmp_path / "export")
    path = bundle / f"keys/vault-{key_id(keeper.vaults[0])}.pem"
    path.write_bytes(public_pem(STRANGER.public_key()))
    keeper.list_and_sign(bundle)
    refused(verify.verify_bundle(bundle), 1, f"keys/{path.name}")


# --- revocation ---


def revoked(when: str, **more: Any) -> Keeper:
    """The first of two vault keys signed all there is and was revoked before, amidst, or after it was told."""
    keys = [new(), new()]
    return Keeper(vaults=keys, revokes=[(when, key_id(keys[0]))], handed=lambda *_: None, **more)


def test_what_a_revoked_key_signed_is_believed_where_the_log_told_of_it_before(tmp_path: Path) -> None:
    keeper = revoked("last")
    report = check(keeper, tmp_path, keeper.vault, keeper.log)
    assert report.code == 0, report
    assert any("1 of the keys concerned were revoked" in english for _, _, english in report.steps)


def test_what_a_revoked_key_signed_is_not_believed_where_the_log_told_of_it_later(tmp_path: Path) -> None:
    keeper = revoked("middle")  # after the minutes, before the manifest
    refused(check(keeper, tmp_path, keeper.vault, keeper.log), 3, MANIFEST)


def test_a_receipt_by_a_revoked_key_needs_its_own_minute_before(tmp_path: Path) -> None:
    class Resigned(Keeper):
        """Manifests by the current key, receipts by the revoked one."""

        def envelope(self, kind: str, payload: Json, key: Key) -> Json:
            self.signs = 0 if kind == "receipt" else 1
            made = super().envelope(kind, payload, key)
            self.signs = 0
            return made

    keys = [new(), new()]
    for when, code in (("last", 0), ("middle", 0), ("first", 3)):
        keeper = Resigned(vaults=keys, revokes=[(when, key_id(keys[0]))], handed=lambda *_: None)
        report = check(keeper, tmp_path / when, keeper.vault, keeper.log)
        assert (report.code, report.subject) == (code, RECEIPTS if code else ""), (when, report)


def test_a_revoked_key_signs_no_listing(tmp_path: Path) -> None:
    keeper = Keeper(vaults=[new()])
    keeper.revokes = [("last", key_id(keeper.vault))]
    refused(check(keeper, tmp_path, keeper.vault, keeper.log), 3, "keys/vault.pem")


def test_a_revoked_log_key_signs_no_checkpoint(tmp_path: Path) -> None:
    keeper = Keeper()
    keeper.revokes = [("first", key_id(keeper.log))]
    refused(check(keeper, tmp_path, keeper.vault, keeper.log), 3, "keys/log.pem")


def test_a_key_revoked_after_it_handed_over_still_leads_on_and_one_revoked_before_does_not(tmp_path: Path) -> None:
    keeper = Keeper(signs=1)
    keeper.revokes = [("first", key_id(keeper.vaults[0]))]
    assert check(keeper, tmp_path / "after", keeper.vaults[0], keeper.log).code == 0

    class Late(Keeper):
        def _state(self, kind: str, fields: Json, act: UUID | None = None) -> None:
            if fields.get("key_id") == key_id(self.vault) and kind == "key":
                super()._state(
                    "revocation", {"purpose": "receipt", "key_id": fields["replaces"], "code": "lost", "reason": "x"}
                )
            super()._state(kind, fields, act)

    late = Late(signs=1)
    refused(check(late, tmp_path / "before", late.vaults[0], late.log), 3, "keys/vault.pem")


def test_a_closing_by_a_terminals_key_that_was_revoked_before_is_not_believed(tmp_path: Path) -> None:
    for when, code in (("last", 0), ("middle", 3)):
        keeper = Keeper(vaults=[new()], revoked_as="recorder")
        keeper.revokes = [(when, key_id(keeper.terminal))]
        report = check(keeper, tmp_path / when, keeper.vault, keeper.log)
        assert report.code == code, (when, report)


def test_a_terminals_revocation_that_names_the_vaults_key_revokes_no_key_of_the_vault(tmp_path: Path) -> None:
    """The service that tells of terminals may name any id."""
    keeper = Keeper(vaults=[new()], revoked_as="recorder")
    keeper.revokes = [("first", key_id(keeper.vault)), ("first", key_id(keeper.log))]
    report = check(keeper, tmp_path, keeper.vault, keeper.log)
    assert report.code == 0, report


def test_an_export_of_before_there_were_rotations_verifies_as_before(tmp_path: Path) -> None:
    maker = Maker()
    assert verify.verify_bundle(maker.make(tmp_path / "export"), maker.trusted).code == 0
