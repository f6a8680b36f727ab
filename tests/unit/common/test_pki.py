"""The authorities: what they issue verifies strictly, and what they must not sign they refuse."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from clusterai.credentials import validity
from clusterai.errors import BadRequest
from clusterai.pki import CertificateAuthority, Issued, key_pem, new_csr, new_key, serial_of, spki_sha256_of

URI = "spiffe://c1/node/n1"


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create("Cluster AI test", "spiffe://c1")


def leaf_of(issued: Issued) -> x509.Certificate:
    return x509.load_der_x509_certificate(issued.chain_der[0])


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Run a TLS handshake in memory and return the client's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname="clusteraid")
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    here.getpeercert()
    there.getpeercert()
    return here


def context(purpose: ssl.Purpose, authority: CertificateAuthority, files: str) -> ssl.SSLContext:
    strict = ssl.create_default_context(purpose, cadata=authority.cert_pem.decode())
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    strict.verify_mode = ssl.CERT_REQUIRED
    strict.load_cert_chain(files)
    return strict


def test_both_ends_verify_under_pythons_strict_rules(
    authority: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server_key, client_key = new_key(), new_key()
    server = authority.issue(new_csr(server_key), "spiffe://c1/daemon", dns=("clusteraid",), server=True, client=False)
    client = authority.issue(new_csr(client_key), URI)
    directory = tmp_path_factory.mktemp("tls")
    (directory / "server.pem").write_bytes(key_pem(server_key) + server.chain_pem)
    (directory / "client.pem").write_bytes(key_pem(client_key) + client.chain_pem)
    peer = handshake(
        context(ssl.Purpose.CLIENT_AUTH, authority, str(directory / "server.pem")),
        context(ssl.Purpose.SERVER_AUTH, authority, str(directory / "client.pem")),
    ).getpeercert()
    assert peer is not None
    assert ("DNS", "clusteraid") in peer["subjectAltName"]


def test_a_client_certificate_is_no_server_certificate(
    authority: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = new_key()
    issued = authority.issue(new_csr(key), URI, dns=("clusteraid",))
    file = tmp_path_factory.mktemp("tls") / "client.pem"
    file.write_bytes(key_pem(key) + issued.chain_pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(
            context(ssl.Purpose.CLIENT_AUTH, authority, str(file)),
            context(ssl.Purpose.SERVER_AUTH, authority, str(file)),
        )


def test_a_leaf_has_one_uri_its_use_and_no_power_to_sign(authority: CertificateAuthority) -> None:
    extensions = leaf_of(authority.issue(new_csr(new_key()), URI)).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [URI]
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert extensions.get_extension_for_class(x509.BasicConstraints).critical


def test_names_in_the_request_are_ignored(authority: CertificateAuthority) -> None:
    key = new_key()
    greedy = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clusteraid")])
    )
    greedy = greedy.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    greedy = greedy.add_extension(x509.SubjectAlternativeName([x509.DNSName("clusteraid")]), critical=False)
    leaf = leaf_of(authority.issue(greedy.sign(key, hashes.SHA256()).public_bytes(Encoding.DER), URI))
    assert "clusteraid" not in leaf.subject.rfc4514_string()
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == []


def test_a_certificate_lives_seven_days_and_a_little_before_now(authority: CertificateAuthority) -> None:
    issued, now = authority.issue(new_csr(new_key()), URI), datetime.now(UTC)
    assert timedelta(hours=1) < now - issued.not_before < timedelta(hours=2)
    assert abs(issued.not_after - now - timedelta(days=7)) < timedelta(minutes=1)


def test_a_leaf_never_outlives_its_authority(authority: CertificateAuthority) -> None:
    issued = authority.issue(new_csr(new_key()), URI, lifetime=timedelta(days=365 * 30))
    assert issued.not_after == authority.not_after


def test_validity_is_read_without_cryptography_as_with_it(authority: CertificateAuthority) -> None:
    for lifetime in (timedelta(seconds=60), timedelta(days=7), timedelta(days=365 * 19)):
        issued = authority.issue(new_csr(new_key()), URI, lifetime=lifetime)
        assert validity(issued.chain_der[0]) == (issued.not_before, issued.not_after)


def test_serials_and_fingerprints_come_back(authority: CertificateAuthority) -> None:
    issued = authority.issue(new_csr(new_key()), URI)
    assert serial_of(issued.chain_pem) == issued.serial
    assert spki_sha256_of(issued.chain_der[1]) == authority.spki_sha256


def test_an_authority_is_the_same_after_it_was_saved(authority: CertificateAuthority) -> None:
    again = CertificateAuthority.load(authority.key_pem, authority.cert_pem)
    assert (again.spki_sha256, again.uri) == (authority.spki_sha256, "spiffe://c1")


def test_a_key_of_another_authority_is_refused(authority: CertificateAuthority) -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        CertificateAuthority.load(CertificateAuthority.create("other").key_pem, authority.cert_pem)


def request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def forged_request() -> bytes:
    """A request whose last byte, of the signature, is another."""
    der = bytearray(new_csr(new_key()))
    der[-1] ^= 1
    return bytes(der)


@pytest.mark.parametrize(
    ("request_der", "reason"),
    [
        (b"", "not a readable"),
        (b"\x30\x03\x02\x01\x00", "not a readable"),
        (b"x" * 5000, "longer than"),
        (request_of(rsa.generate_private_key(65537, 2048)), "not EC P-256"),
        (request_of(ec.generate_private_key(ec.SECP384R1())), "not EC P-256"),
        (forged_request(), "signature is wrong"),
    ],
    ids=["empty", "no request", "long", "RSA", "P-384", "forged"],  # keys are new in each process
)
def test_a_bad_request_is_refused_with_the_reason(
    authority: CertificateAuthority, request_der: bytes, reason: str
) -> None:
    with pytest.raises(BadRequest, match=reason) as refused:
        authority.issue(request_der, URI)
    assert refused.value.advice
