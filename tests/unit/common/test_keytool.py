"""Keys and fingerprints from a helper process: with cryptography, and on phones with OpenSSL's own program."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from clusterai import keytool
from clusterai.keytool import KeyToolFailed, fingerprints_in_helper, request_in_helper
from clusterai.pki import CertificateAuthority, spki_sha256_of

URI = "spiffe://c1/node/n1"


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create("Cluster AI test", "spiffe://c1")


def self_signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Return a certificate in DER for any key."""
    name, now = x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.fixture(params=["linux", "android"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "platform", request.param)
    return str(request.param)


@pytest.fixture
def openssl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A phone, and the place of the only `openssl` that it finds; there is none yet."""
    monkeypatch.setattr(sys, "platform", "android")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "openssl"


@pytest.mark.usefixtures("platform")
async def test_a_new_key_gets_its_certificate(authority: CertificateAuthority) -> None:
    first, second = await asyncio.gather(request_in_helper(), request_in_helper())
    asked = x509.load_der_x509_csr(first.csr_der)
    key = load_pem_private_key(first.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert first.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert first.key_pem != second.key_pem
    assert (list(asked.subject), list(asked.extensions)) == ([], [])
    issued = x509.load_der_x509_certificate(authority.issue(first.csr_der, URI).chain_der[0])
    encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert issued.public_key().public_bytes(*encoding) == key.public_key().public_bytes(*encoding)
    assert "PRIVATE" not in repr(first)


@pytest.mark.usefixtures("platform")
async def test_a_fingerprint_is_that_of_the_certificate_s_key(authority: CertificateAuthority) -> None:
    others = [self_signed(ec.generate_private_key(ec.SECP384R1())), self_signed(rsa.generate_private_key(65537, 2048))]
    told = await fingerprints_in_helper([authority.cert_der, b"no certificate", b"", *others])
    assert told == (authority.spki_sha256, b"", b"", *map(spki_sha256_of, others))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("", "openssl: No such file or directory"),
        ("echo out of entropy >&2; exit 1", "out of entropy"),
        ("echo nothing of use", "openssl printed no key and request"),
    ],
)
async def test_a_phone_without_a_usable_openssl_says_what_to_install(openssl: Path, script: str, reason: str) -> None:
    if script:
        openssl.write_text(f"#!/bin/sh\n{script}\n")
        openssl.chmod(0o755)
    with pytest.raises(KeyToolFailed) as refused:
        await request_in_helper()
    assert str(refused.value) == f"could not make or read a key: {reason}"
    assert "pkg install openssl-tool" in refused.value.advice


async def test_a_program_that_hangs_is_ended(openssl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keytool, "_HELPER_SECONDS", 0.2)
    openssl.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    openssl.chmod(0o755)
    with pytest.raises(KeyToolFailed, match="openssl did not end within"):
        await fingerprints_in_helper([b"x"])


async def test_without_cryptography_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cryptography.py").write_text("raise ImportError('no cryptography here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(KeyToolFailed, match="no cryptography here") as refused:
        await fingerprints_in_helper([b"x"])
    assert "python3-cryptography" in refused.value.advice
