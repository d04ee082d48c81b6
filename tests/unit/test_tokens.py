"""Time-stamp tokens that are well-formed DER and no tokens: each is said to be unreadable."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from services.vault.contract import verify

DATA = b"checkpoint"
SHA256, ECDSA_SHA256 = "608648016503040201", "2a8648ce3d040302"
CERTIFICATE_V2 = "2a864886f70d010910022f"


def der(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    assert len(body) < 1 << 16
    size = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")
    return bytes([tag]) + size + body


def sequence(*content: bytes) -> bytes:
    return der(0x30, *content)


def some(*content: bytes) -> bytes:
    return der(0x31, *content)


def name(oid: str) -> bytes:
    return der(6, bytes.fromhex(oid))


def token(*certificate: bytes) -> bytes:
    """Whole but for its signature; `certificate` is what the attribute with the authority's certificate holds."""
    sha = sequence(name(SHA256))
    imprint = sequence(sha, der(4, hashlib.sha256(DATA).digest()))
    info = sequence(der(2, b"\1"), name("2a0304"), imprint, der(2, b"\1"), der(24, b"20260101000000Z"))
    attributes = [
        sequence(name(verify.CONTENT_TYPE), some(name(verify.TST_INFO))),
        sequence(name(verify.MESSAGE_DIGEST), some(der(4, hashlib.sha256(info).digest()))),
        sequence(name(CERTIFICATE_V2), some(*certificate)),
    ]
    signer = sequence(
        *(der(2, b"\1"), sequence(), sha, der(0xA0, *attributes), sequence(name(ECDSA_SHA256)), der(4, b"x"))
    )
    enclosed = sequence(name(verify.TST_INFO), der(0xA0, der(4, info)))
    signed = sequence(der(2, b"\3"), some(), enclosed, some(signer))
    return sequence(sequence(der(2, b"\0")), sequence(name(verify.SIGNED_DATA), der(0xA0, signed)))


@pytest.fixture(scope="module")
def certificate() -> x509.Certificate:
    key, begins = ec.generate_private_key(ec.SECP256R1()), datetime(2025, 1, 1, tzinfo=UTC)
    built = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).serial_number(1)
    built = built.public_key(key.public_key()).not_valid_before(begins).not_valid_after(begins.replace(year=2030))
    return built.sign(key, hashes.SHA256())


@pytest.mark.parametrize(
    "named",
    [(), (sequence(),), (sequence(sequence()),), (sequence(sequence(sequence())),)],
)
def test_a_token_without_its_authoritys_certificate_is_none(
    certificate: x509.Certificate, named: tuple[bytes, ...]
) -> None:
    with pytest.raises(verify.Unreadable):
        verify.verify_timestamp(token(*named), DATA, certificate)


def test_a_token_by_another_certificate_is_not_trusted(certificate: x509.Certificate) -> None:
    other = sequence(sequence(sequence(der(4, bytes(32)))))
    with pytest.raises(verify.Untrusted):
        verify.verify_timestamp(token(other), DATA, certificate)
