"""Keys, certificate requests and the two certificate authorities; the only module that imports cryptography."""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clusterai.credentials import chain_pem, renewal_due
from clusterai.errors import BadRequest

__all__ = [
    "CertificateAuthority", "Issued", "PrivateKey", "chain_pem", "check_pair", "hosts_of",
    "key_pem", "new_csr", "new_key", "renewal_due", "serial_and_end", "serial_of", "spki_sha256_of",
]

PrivateKey = ec.EllipticCurvePrivateKey
LEAF_LIFETIME = timedelta(days=7)
_CA_LIFETIME = timedelta(days=365 * 20)
_BACKDATED_SHARE = 1 / 100  # of a leaf's life, 1 h 41 min of 7 days: more than the clock difference enrolment accepts
_CA_BACKDATED = timedelta(days=7)
_CSR_LIMIT = 4096


@dataclass(frozen=True)
class Issued:
    """A new certificate: DER chain, leaf first, the CA last; serial in hex; validity in UTC."""

    chain_der: tuple[bytes, ...]
    serial: str
    not_before: datetime
    not_after: datetime

    @property
    def chain_pem(self) -> bytes:
        """The chain as PEM text."""
        return chain_pem(self.chain_der)


def new_key() -> PrivateKey:
    """Return a new EC P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def new_csr(key: PrivateKey) -> bytes:
    """Return a DER certificate request for the key. It names nobody: names come from the token or the certificate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def spki_sha256_of(certificate_der: bytes) -> bytes:
    """Return the SHA-256 of the certificate's SubjectPublicKeyInfo; raise ValueError when it is no certificate."""
    return _spki_sha256(x509.load_der_x509_certificate(certificate_der))


def serial_of(certificate_pem: bytes) -> str:
    """Return the serial number of the first certificate of the PEM text, in lower-case hex."""
    return serial_and_end(certificate_pem)[0]


def serial_and_end(certificate_pem: bytes) -> tuple[str, datetime]:
    """Return the first certificate's serial number, in lower-case hex, and the moment when it ends."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    return f"{certificate.serial_number:x}", _validity(certificate)[1]


class CertificateAuthority:
    """A self-signed EC P-256 CA and its key."""

    def __init__(self, key: PrivateKey, certificate: x509.Certificate) -> None:
        self._key, self._certificate = key, certificate
        self.cert_pem = certificate.public_bytes(Encoding.PEM)
        self.cert_der = certificate.public_bytes(Encoding.DER)
        self.spki_sha256 = _spki_sha256(certificate)
        self.not_after = _validity(certificate)[1]

    @classmethod
    def create(cls, common_name: str, uri: str = "") -> "CertificateAuthority":
        """Make a new CA that lives 20 years; a URI, if given, becomes its SAN (a trust domain's `spiffe://<id>`)."""
        key, now = new_key(), datetime.now(UTC)
        builder = _builder(common_name, common_name, key.public_key(), now - _CA_BACKDATED, now + _CA_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        if uri:
            builder = builder.add_extension(_names(uri, ()), critical=False)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, key_pem: bytes, cert_pem: bytes) -> "CertificateAuthority":
        """Return the CA of its two files' content; raise ValueError when they do not belong together."""
        key = serialization.load_pem_private_key(key_pem, None)
        certificate = x509.load_pem_x509_certificate(cert_pem)
        if not isinstance(key, PrivateKey) or _spki(key.public_key()) != _spki(certificate.public_key()):
            raise ValueError("key and certificate do not belong together")
        return cls(key, certificate)

    @property
    def key_pem(self) -> bytes:
        """The CA's key, for its file."""
        return key_pem(self._key)

    @property
    def uri(self) -> str:
        """The URI SAN of the CA, or nothing."""
        return _uri_of(self._certificate)

    def issue(
        self,
        csr_der: bytes,
        uri: str,
        *,
        lifetime: timedelta = LEAF_LIFETIME,
        dns: Sequence[str] = (),
        server: bool = False,
        client: bool = True,
    ) -> Issued:
        """Issue a certificate with exactly one URI SAN for the request's key; names in the request are ignored.

        Raises:
            BadRequest: not a request, badly signed, or its key is not EC P-256.
        """
        public_key = _requested_key(csr_der)
        now = datetime.now(UTC)
        not_before, not_after = now - lifetime * _BACKDATED_SHARE, min(now + lifetime, self.not_after)
        issuer = self._certificate.subject.rfc4514_string().removeprefix("CN=")
        subject, issuer_key = uri.rsplit("/", 1)[-1][:64], self._key.public_key()
        builder = _builder(issuer, subject, public_key, not_before, not_after, issuer_key)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage("digital_signature"), critical=True)
        builder = builder.add_extension(_extended_usage(server=server, client=client), critical=False)
        builder = builder.add_extension(_names(uri, dns), critical=False)
        return self._issued(builder.sign(self._key, hashes.SHA256()))

    def _issued(self, leaf: x509.Certificate) -> Issued:
        chain = (leaf.public_bytes(Encoding.DER), self.cert_der)
        return Issued(chain, f"{leaf.serial_number:x}", *_validity(leaf))


def _requested_key(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key of a certificate request, checked."""
    if len(csr_der) > _CSR_LIMIT:
        raise BadRequest(what="certificate request", reason=f"longer than {_CSR_LIMIT} bytes")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key, signed = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise BadRequest(what="certificate request", reason="not a readable PKCS#10 request") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequest(what="certificate request", reason="its key is not EC P-256")
    if not signed:
        raise BadRequest(what="certificate request", reason="its signature is wrong")
    return key


def _builder(
    issuer: str,
    subject: str,
    key: ec.EllipticCurvePublicKey,
    not_before: datetime,
    not_after: datetime,
    issuer_key: ec.EllipticCurvePublicKey | None = None,
) -> x509.CertificateBuilder:
    """A certificate with what every one of ours has: names, validity, SKI and AKI (Python >= 3.13 insists on both)."""
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number()).public_key(key)
    builder = builder.issuer_name(_common_name(issuer)).subject_name(_common_name(subject))
    builder = builder.not_valid_before(not_before).not_valid_after(not_after)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key or key)
    return builder.add_extension(authority, critical=False)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)


def _key_usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in allowed for usage in _USAGES})


def _extended_usage(*, server: bool, client: bool) -> x509.ExtendedKeyUsage:
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    return x509.ExtendedKeyUsage(usages)


def _names(uri: str, dns: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    return x509.SubjectAlternativeName(names + [_host(name) for name in dns])


def _host(name: str) -> x509.GeneralName:
    """The name as what it is: clients compare an address with addresses only."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _uri_of(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")


def _spki(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _spki_sha256(certificate: x509.Certificate) -> bytes:
    return hashlib.sha256(_spki(certificate.public_key())).digest()


def _validity(certificate: Any) -> tuple[datetime, datetime]:
    """The bounds of its life in UTC; the names of the aware ones are newer than Debian 12's cryptography."""
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate.not_valid_before.replace(tzinfo=UTC), certificate.not_valid_after.replace(tzinfo=UTC)


def hosts_of(certificate_pem: bytes) -> set[str]:
    """Return the DNS names and addresses of the first certificate of the PEM text."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    found: list[str] = names.get_values_for_type(x509.DNSName)
    return {*found, *map(str, names.get_values_for_type(x509.IPAddress))}


def check_pair(chain_pem: bytes, key_pem: bytes) -> datetime:
    """Return when the chain's first certificate ends, in UTC; raise ValueError when the key is not its key."""
    try:
        key = serialization.load_pem_private_key(key_pem, None)
        certificate = x509.load_pem_x509_certificate(chain_pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key has a passphrase
        raise ValueError("not a PEM certificate and its key without a passphrase") from error
    if _spki(key.public_key()) != _spki(certificate.public_key()):
        raise ValueError("the key is not the certificate's key")
    return _validity(certificate)[1]
