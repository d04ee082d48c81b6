"""Exports altered by those who carry them: every kind of file changed, removed, added, swapped."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.vault.contract import verify
from services.vault.contract.wire import canonical
from services.vault.log import note
from tests.unit.bundles import (
    FOLDER,
    MANIFEST,
    MEDIA,
    ORIGIN,
    RECEIPTS,
    Change,
    Json,
    Maker,
    b64,
    edited,
    flip_last,
    key_id,
    one,
    public_pem,
    refused,
    relist,
    write,
    write_checkpoint,
)

# --- Altered by whoever carries it: one change of each file ----------------------------------------

KEPT = (
    "bagit.txt",
    "bag-info.txt",
    "manifest-sha256.txt",
    "README.md",
    "verify.py",
    "keys/vault.pem",
    "keys/log.pem",
    "keys/log.vkey",
    "keys/terminal-*.pem",
    "checkpoint",
    "checkpoint.body",
    "checkpoint.sig",
    MANIFEST,
    f"{FOLDER}/manifest.pae",
    f"{FOLDER}/manifest.sig",
    RECEIPTS,
    f"{FOLDER}/offsets.tsv",
    "proofs/*",
    MEDIA,
)


@pytest.mark.parametrize("pattern", KEPT)
def test_a_changed_byte_is_noticed_and_the_file_named(bundle: Path, maker: Maker, pattern: str) -> None:
    path = one(bundle, pattern)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(verify.verify_bundle(bundle, maker.trusted), 1, path.relative_to(bundle).as_posix())


def test_a_changed_signature_of_the_listing_is_not_over_the_listing(bundle: Path, maker: Maker) -> None:
    edited(verify.TAG_SIGNATURE, flip_last)(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 1, verify.TAG_LISTING)


@pytest.mark.parametrize("pattern", [*KEPT, verify.TAG_LISTING, verify.TAG_SIGNATURE])
def test_a_removed_file_is_missed_by_name(bundle: Path, maker: Maker, pattern: str) -> None:
    path = one(bundle, pattern)
    path.unlink()
    refused(verify.verify_bundle(bundle, maker.trusted), 2, path.relative_to(bundle).as_posix())


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        ".DS_Store",
        "keys/terminal-" + "0" * 64 + ".pem",
        f"{FOLDER}/more.json",
        "proofs/0193570c-0000-7000-8000-00000000ffff.tlog-proof",
        "data/0193570c-0000-7000-8000-00000000ffff.mp4",
        "data/extra.mp4",
    ],
)
def test_an_added_file_is_refused_by_name(bundle: Path, maker: Maker, name: str) -> None:
    write(bundle, name, b"added")
    refused(verify.verify_bundle(bundle, maker.trusted), 1, name)


@pytest.mark.parametrize("name", ["notes.txt", "data/extra.mp4", f"{FOLDER}/more.json", "keys/other.pem"])
def test_an_added_file_is_out_of_place_even_if_listed(bundle: Path, maker: Maker, name: str) -> None:
    write(bundle, name, b"added")
    relist(bundle)
    listing = "manifest-sha256.txt" if name.startswith("data/") else "tagmanifest-sha256.txt"
    report = verify.verify_bundle(bundle, maker.trusted)
    refused(report, 1, listing)
    assert name in report.chinese


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "data/../../outside", "data/./x", "C:\\x", "~/x"])
def test_a_listing_that_points_outside_is_refused(bundle: Path, maker: Maker, path: str) -> None:
    with (bundle / "tagmanifest-sha256.txt").open("a") as file:
        file.write(f"{'0' * 64}  {path}\n")
    refused(verify.verify_bundle(bundle, maker.trusted), 1, "tagmanifest-sha256.txt")


@pytest.mark.parametrize("line", ["gibberish\n", "\n", "A" * 64 + "  README.md\n"])
def test_a_listing_that_is_not_one_is_unreadable(bundle: Path, maker: Maker, line: str) -> None:
    with (bundle / "tagmanifest-sha256.txt").open("a") as file:
        file.write(line)
    refused(verify.verify_bundle(bundle, maker.trusted), 4, "tagmanifest-sha256.txt")


def test_a_file_listed_twice_is_refused(bundle: Path, maker: Maker) -> None:
    path = bundle / "tagmanifest-sha256.txt"
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[0])
    refused(verify.verify_bundle(bundle, maker.trusted), 1, "tagmanifest-sha256.txt")


@pytest.mark.parametrize("name", ["README.md", MEDIA, "checkpoint"])
def test_a_link_is_refused_even_to_the_very_same_bytes(bundle: Path, maker: Maker, tmp_path: Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    refused(verify.verify_bundle(bundle, maker.trusted), 1, name)


def test_a_linked_folder_is_refused(bundle: Path, maker: Maker, tmp_path: Path) -> None:
    (bundle / "data").rename(tmp_path / "elsewhere")
    (bundle / "data").symlink_to(tmp_path / "elsewhere")
    refused(verify.verify_bundle(bundle, maker.trusted), 1, "data")


def test_a_pipe_is_refused_without_being_read(bundle: Path, maker: Maker) -> None:
    os.mkfifo(bundle / "pipe")
    refused(verify.verify_bundle(bundle, maker.trusted), 1, "pipe")


# --- Altered by someone who lists the digests anew --------------------------------------------------


def proofs(bundle: Path, kind: str) -> list[Path]:
    """The proofs of one kind of statement."""
    found = []
    for path in sorted((bundle / "proofs").iterdir()):
        statement = json.loads(verify.parse_proof(path.read_text()).extra[32:])
        if statement["kind"] == kind:
            found.append(path)
    return found


def swap_lines(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([lines[0], lines[2], lines[1], *lines[3:]])


def envelope_payload(edit: Callable[[Json], None]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        envelope = json.loads(data)
        payload = json.loads(base64.b64decode(envelope["payload"]))
        edit(payload)
        return canonical({**envelope, "payload": b64(canonical(payload))})

    return change


RELISTED: list[tuple[str, Change, int, str]] = [
    ("a byte of the media", edited(MEDIA, flip_last), 1, MEDIA),
    ("media cut short", edited(MEDIA, lambda data: data[:-1]), 2, MEDIA),
    ("media made longer", edited(MEDIA, lambda data: data + b"\0"), 1, MEDIA),
    ("empty media", edited(MEDIA, lambda data: b""), 2, MEDIA),
    (
        "a segment's place in the manifest",
        edited(MANIFEST, envelope_payload(lambda p: p["segments"].pop())),
        1,
        MANIFEST,
    ),
    ("no manifest at all", edited(MANIFEST, lambda data: b"{"), 4, MANIFEST),
    ("white space in the manifest file", edited(MANIFEST, lambda data: data + b"\n"), 1, MANIFEST),
    ("the manifest's copy for openssl", edited(f"{FOLDER}/manifest.pae", flip_last), 1, f"{FOLDER}/manifest.pae"),
    ("the signature's copy for openssl", edited(f"{FOLDER}/manifest.sig", flip_last), 1, f"{FOLDER}/manifest.sig"),
    (
        "an offset",
        edited(f"{FOLDER}/offsets.tsv", lambda data: data.replace(b"300", b"301")),
        1,
        f"{FOLDER}/offsets.tsv",
    ),
    ("a receipt less", edited(RECEIPTS, lambda d: b"".join(d.splitlines(True)[:-1])), 2, RECEIPTS),
    ("no receipts", edited(RECEIPTS, lambda data: b""), 2, RECEIPTS),
    ("a receipt twice", edited(RECEIPTS, lambda d: d + d.splitlines(True)[-1]), 1, RECEIPTS),
    ("receipts swapped", edited(RECEIPTS, swap_lines), 1, RECEIPTS),
    ("a receipt that is none", edited(RECEIPTS, lambda data: b"x" + data), 4, RECEIPTS),
    (
        "the checkpoint's size",
        edited("checkpoint", lambda data: data.replace(b"\n310\n", b"\n311\n")),
        1,
        "checkpoint",
    ),
    ("no checkpoint", edited("checkpoint", lambda data: b"none"), 4, "checkpoint"),
    ("the checkpoint's body", edited("checkpoint.body", flip_last), 1, "checkpoint.body"),
    ("the checkpoint's signature", edited("checkpoint.sig", flip_last), 1, "checkpoint.sig"),
    ("not a bag", edited("bagit.txt", lambda data: data.replace(b"1.0", b"0.9")), 4, "bagit.txt"),
    ("a key that is none", edited("keys/log.pem", lambda data: b"none"), 4, "keys/log.pem"),
    ("a vkey that is none", edited("keys/log.vkey", lambda data: b"none"), 4, "keys/log.vkey"),
    ("text that is not UTF-8", edited("keys/log.vkey", lambda data: b"\xff"), 4, "keys/log.vkey"),
]


@pytest.mark.parametrize(("why", "change", "code", "subject"), RELISTED, ids=[one[0] for one in RELISTED])
def test_new_digests_do_not_hide_a_change(
    bundle: Path, maker: Maker, why: str, change: Change, code: int, subject: str
) -> None:
    change(bundle)
    relist(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), code, subject)


def test_two_proofs_that_change_names_are_noticed(bundle: Path, maker: Maker) -> None:
    first, second = sorted((bundle / "proofs").iterdir())[:2]
    text = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(text)
    relist(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 1, f"proofs/{first.name}")


def test_a_proof_with_another_statement_is_noticed(bundle: Path, maker: Maker) -> None:
    path = proofs(bundle, "export")[0]
    proof = verify.parse_proof(path.read_text())
    forged = proof.extra.replace(b"case-handling", b"case-HANDLING")
    path.write_text(path.read_text().replace(b64(proof.extra), b64(forged)))
    relist(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 1, f"proofs/{path.name}")


def test_a_proof_under_another_checkpoint_is_noticed(bundle: Path, maker: Maker) -> None:
    path = proofs(bundle, "manifest")[0]
    other = note.sign_checkpoint(ORIGIN, 1, bytes(32), maker.log)
    path.write_text(path.read_text().split("\n\n")[0] + "\n\n" + other)
    relist(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 1, f"proofs/{path.name}")


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("manifest", MANIFEST),
        ("segments", MANIFEST),
        ("enrolment", "keys/terminal-"),
        ("export", "proofs"),
    ],
)
def test_a_proof_that_is_missing_is_missed_even_if_unlisted(
    bundle: Path, maker: Maker, kind: str, subject: str
) -> None:
    proofs(bundle, kind)[-1].unlink()
    relist(bundle)
    report = verify.verify_bundle(bundle, maker.trusted)
    assert report.code == 2, report
    assert report.subject.startswith(subject)


def test_an_older_checkpoint_that_does_not_hold_the_proofs_is_refused(bundle: Path, maker: Maker) -> None:
    old = note.sign_checkpoint(ORIGIN, 1, bytes(32), maker.log)
    now = (bundle / "checkpoint").read_text()
    write_checkpoint(bundle, old)
    for path in (bundle / "proofs").iterdir():
        path.write_text(path.read_text().replace(now, old))
    relist(bundle)
    report = verify.verify_bundle(bundle, maker.trusted)
    assert report.code == 1, report
    assert report.subject.startswith("proofs/")


def test_a_whole_forged_export_is_consistent_and_not_trusted(tmp_path: Path, maker: Maker) -> None:
    forged = Maker().make(tmp_path / "forged")
    assert verify.verify_bundle(forged).code == 0
    refused(verify.verify_bundle(forged, maker.trusted), 3, "keys/vault.pem")


@pytest.mark.parametrize("name", ["vault", "log"])
def test_both_the_vault_and_the_log_must_be_trusted(genuine: Path, maker: Maker, name: str) -> None:
    without = {identity: key for identity, key in maker.trusted.items() if identity != key_id(getattr(maker, name))}
    refused(verify.verify_bundle(genuine, without), 3, f"keys/{name}.pem")
    refused(verify.verify_bundle(genuine, {}), 3, "keys/vault.pem")


def test_a_vault_key_put_in_place_of_ours_signs_nothing_here(bundle: Path) -> None:
    other = Maker()
    pem = other.vault.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write(bundle, "keys/vault.pem", pem)
    relist(bundle)
    refused(verify.verify_bundle(bundle), 3, MANIFEST)


def test_a_terminal_key_under_another_name_or_beside_the_needed_one_is_refused(bundle: Path, maker: Maker) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    extra = f"keys/terminal-{key_id(key)}.pem"
    write(bundle, extra, pem)
    relist(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 1, extra)
    (bundle / extra).unlink()
    ours = f"keys/terminal-{key_id(maker.terminal)}.pem"
    write(bundle, ours, pem)
    relist(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 1, ours)


def test_a_key_of_another_kind_is_unreadable(bundle: Path) -> None:
    key = generate_private_key(SECP256R1()).public_key()
    write(bundle, "keys/vault.pem", key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    relist(bundle)
    refused(verify.verify_bundle(bundle), 4, "keys/vault.pem")


@pytest.mark.parametrize("name", ["README.md", "verify.py", "bag-info.txt"])
def test_files_that_explain_cannot_be_exchanged_even_if_listed_anew(bundle: Path, maker: Maker, name: str) -> None:
    edited(name, lambda data: data + b"\n")(bundle)
    relist(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 1, "tagmanifest-sha256.txt")


def test_segments_sealed_beside_a_recording_are_enclosed_and_checked(tmp_path: Path) -> None:
    maker = Maker(beside=(700, 900))
    bundle = maker.make(tmp_path / "beside")
    report = verify.verify_bundle(bundle, maker.trusted)
    assert report.code == 0, report
    assert any("另有 2 个已封存片段" in chinese for _, chinese, _ in report.steps)
    extra = one(bundle, "data/*.beside/*")
    name = extra.relative_to(bundle).as_posix()
    edited(name, flip_last)(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 1, name)
    extra.unlink()
    refused(verify.verify_bundle(bundle, maker.trusted), 2, name)
    relist(bundle)
    refused(verify.verify_bundle(bundle, maker.trusted), 2, name)


def test_the_log_bears_the_name_that_was_trusted(bundle: Path, maker: Maker, tmp_path: Path) -> None:
    """One key may sign two logs, of which witnesses watch one."""
    raw = verify.raw_key(maker.log.public_key())
    write(tmp_path, "vault.pem", public_pem(maker.vault.public_key()))
    trust = [str(bundle), "--quiet", "--trust", str(tmp_path / "vault.pem"), str(tmp_path / "log.vkey")]
    write(tmp_path, "log.vkey", note.vkey(ORIGIN, raw))
    assert verify.main(trust) == 0
    write(tmp_path, "log.vkey", note.vkey("quancheng.test/another", raw))
    assert verify.main(trust) == 3
    report = verify.verify_bundle(bundle, maker.trusted, origins={"quancheng.test/another"})
    refused(report, 3, "checkpoint")
