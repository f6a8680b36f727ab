"""Certificates with a past: what `CertificateAuthority.issue` never makes."""

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from clusterai.pki import CertificateAuthority, PrivateKey


def aged_certificate(
    authority: CertificateAuthority, key: PrivateKey, uri: str, not_before: datetime, not_after: datetime
) -> bytes:
    """Return a client certificate (PEM) of exactly this life."""
    issuer_key = serialization.load_pem_private_key(authority.key_pem, None)
    assert isinstance(issuer_key, PrivateKey)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number()).public_key(key.public_key())
    builder = builder.subject_name(x509.Name([])).issuer_name(issuer.subject)
    builder = builder.not_valid_before(not_before).not_valid_after(not_after)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(names, critical=True).add_extension(usage, critical=False)
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    certificate = builder.add_extension(key_id, critical=False).sign(issuer_key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)
