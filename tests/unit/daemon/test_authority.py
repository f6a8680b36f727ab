"""The authorities' files, and what outlives a restart."""

import asyncio
import shutil
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from clusterai.files import BadFile, CannotWrite
from clusterai.ids import IdentityKind
from clusterai.pki import CertificateAuthority, new_csr, new_key, spki_sha256_of
from clusteraid.access import Caller, Revoked
from clusteraid.authority import Authority, DaemonCertificate, NoIdentity
from clusteraid.operators import NoSuchOperator
from clusteraid.ports import Role
from support.trust import Trust


def test_the_first_start_makes_both_authorities_for_the_daemon_alone(tmp_path: Path) -> None:
    Authority.open(tmp_path / "state/pki")
    files = sorted(path.name for path in (tmp_path / "state/pki").iterdir())
    assert files == ["cluster-ca.key", "cluster-ca.pem", "dask-ca.key", "dask-ca.pem"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "state/pki").iterdir())
    assert (tmp_path / "state/pki").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["pki"]


def test_a_restart_is_the_same_cluster(tmp_path: Path) -> None:
    first, again = Authority.open(tmp_path / "pki"), Authority.open(tmp_path / "pki")
    assert (first.cluster_id, first.ca_sha256, first.dask("main").ca_pem) == (
        again.cluster_id,
        again.ca_sha256,
        again.dask("main").ca_pem,
    )
    assert Authority.open(tmp_path / "other").cluster_id != first.cluster_id


def test_a_crash_while_making_them_leaves_a_clean_start(tmp_path: Path) -> None:
    (tmp_path / ".pki.new").mkdir()
    (tmp_path / ".pki.new/cluster-ca.key").write_text("half")
    Authority.open(tmp_path / "pki")
    assert not (tmp_path / ".pki.new").exists()


@pytest.mark.parametrize("damage", ["missing key", "missing certificate", "empty", "other key", "garbage"])
def test_damage_is_never_repaired_by_a_new_authority(tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "pki"
    Authority.open(directory)
    key, certificate = directory / "cluster-ca.key", directory / "cluster-ca.pem"
    match damage:
        case "missing key":
            key.unlink()
        case "missing certificate":
            certificate.unlink()
        case "empty":
            key.write_text("")
        case "other key":
            shutil.copy(directory / "dask-ca.key", key)
        case "garbage":
            certificate.write_bytes(b"\0" * 100)
    with pytest.raises(BadFile, match="cluster-ca") as refused:
        Authority.open(directory)
    assert str(directory) in refused.value.advice
    assert "backup" in refused.value.advice


def test_no_room_for_the_authorities_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="file"):
        Authority.open(tmp_path / "file/pki")


def test_a_dask_certificate_names_no_identity_and_comes_from_its_own_authority(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "pki")
    issuer = authority.dask("main")
    issued = issuer.issue(new_csr(new_key()), "pi4")
    names = x509.load_der_x509_certificate(issued.chain_der[0]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [name.value for name in names.value] == [f"spiffe://{authority.cluster_id}/dask/main/pi4"]
    assert ssl.DER_cert_to_PEM_cert(issued.chain_der[1]).encode() == issuer.ca_pem
    assert spki_sha256_of(issued.chain_der[1]) != authority.ca_sha256


async def test_a_renewal_keeps_the_identity_and_is_recorded(tmp_path: Path) -> None:
    async with Trust.open(tmp_path) as trust:
        identity = trust.authority.identity(IdentityKind.NODE, "pi4")
        issued = await trust.renewals.renew(Caller(Role.NODE, "10.0.0.7", identity, "1"), new_csr(new_key()))
        await trust.revocations.revoke(identity)
        assert trust.revocations.is_revoked(issued.serial)


async def test_a_revoked_caller_gets_no_new_certificate(tmp_path: Path) -> None:
    async with Trust.open(tmp_path) as trust:
        identity = trust.authority.identity(IdentityKind.NODE, "pi4")
        issued = await trust.renewals.renew(Caller(Role.NODE, "10.0.0.7", identity, "1"), new_csr(new_key()))
        caller = Caller(Role.NODE, "10.0.0.7", identity, issued.serial)
        outcomes = await asyncio.gather(
            trust.revocations.revoke(identity),
            trust.renewals.renew(caller, new_csr(new_key())),
            return_exceptions=True,
        )
        renewed = outcomes[1]
        assert isinstance(renewed, Revoked) or trust.revocations.is_revoked(renewed.serial)  # type: ignore[union-attr]
        with pytest.raises(Revoked):
            await trust.renewals.renew(caller, new_csr(new_key()))


async def test_the_certificate_of_a_gate_is_revoked_with_its_node(tmp_path: Path) -> None:
    async with Trust.open(tmp_path) as trust:
        identity = trust.authority.identity(IdentityKind.NODE, "pi4")
        caller = Caller(Role.NODE, "10.0.0.7", identity, "1")
        issued = await trust.renewals.renew_gate(caller, new_csr(new_key()))
        assert not trust.revocations.is_revoked(issued.serial)
        await trust.revocations.revoke(identity)
        assert trust.revocations.is_revoked(issued.serial)


async def test_the_local_socket_has_nothing_to_renew(tmp_path: Path) -> None:
    async with Trust.open(tmp_path) as trust:
        with pytest.raises(NoIdentity) as refused:
            await trust.renewals.renew(Caller(Role.ADMIN, "local"), new_csr(new_key()))
        assert refused.value.advice


async def test_a_revocation_outlives_a_restart_and_closes_sessions(tmp_path: Path) -> None:
    closed: list[str] = []
    async with Trust.open(tmp_path) as trust:
        trust.revocations.on_revoked(lambda identity: closed.append(identity.name))
        await trust.member("pi4")
        _, chain = await trust.member("ada", Role.OPERATOR)
        await trust.operators.revoke("ada")
    async with Trust.open(tmp_path) as again:
        serial = f"{x509.load_pem_x509_certificate(chain).serial_number:x}"
        assert again.revocations.is_revoked(serial)
        assert again.operators.role_of("ada") is None
    assert closed == ["ada"] or closed[-1] == "ada"


async def test_operators_keep_their_roles_over_a_restart(tmp_path: Path) -> None:
    async with Trust.open(tmp_path) as trust:
        await trust.member("ada", Role.VIEWER)
    async with Trust.open(tmp_path) as again:
        assert again.operators.role_of("ada") is Role.VIEWER
        with pytest.raises(NoSuchOperator):
            await again.operators.revoke("bob")


async def test_the_daemon_renews_its_own_certificate_at_two_thirds_of_life(tmp_path: Path) -> None:
    Authority.open(tmp_path / "pki")
    authority = Authority.open(tmp_path / "pki", lifetime=timedelta(seconds=0.6))
    certificate = DaemonCertificate(authority)
    keeping = asyncio.create_task(certificate.keep_fresh())
    ends = certificate.not_after
    await asyncio.sleep(1.2)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert certificate.not_after > ends


def test_the_authority_s_name_is_the_cluster_s(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "pki")
    loaded = CertificateAuthority.load(
        (tmp_path / "pki/cluster-ca.key").read_bytes(), (tmp_path / "pki/cluster-ca.pem").read_bytes()
    )
    assert loaded.uri == f"spiffe://{authority.cluster_id}"
