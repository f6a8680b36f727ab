"""The certificates in the gateway's directory: written, renewed, replaced by the administrator's own, taken over."""

import asyncio
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clusterai.credentials import load_credentials
from clusterai.pki import CertificateAuthority, hosts_of, key_pem, new_csr, new_key
from clusterai.units import Units, UnitsConfig, open_units
from clusteraid.authority import Authority
from clusteraid.config import GatewayConfig
from clusteraid.gateway.certificates import CertificateParts, GatewayCertificates, web_names
from clusteraid.status import Problems
from support.fake_systemd import BusDaemon, FakeSystemd, fake_systemd
from support.waiting import until

UNIT = "clusterai-gateway.service"
NAMES = ("tower.local", "localhost", "127.0.0.1")


class Place:
    """A gateway's directory, its authority, and a systemd that has its unit."""

    def __init__(self, directory: Path, units: Units, systemd: FakeSystemd) -> None:
        self.directory, self.units, self.systemd = directory / "gateway", units, systemd
        self.directory.mkdir()
        self.directory.chmod(0o2750)
        self.pki, self.problems = directory / "pki", Problems()
        self.own = (directory / "own.pem", directory / "own.key")
        self.unit = systemd.add(UNIT)
        self.names: tuple[str, ...] = NAMES

    def certificates(
        self, *, lifetime: timedelta = timedelta(days=7), own: bool = False
    ) -> GatewayCertificates:
        config: dict[str, Any] = {"certificate": self.own[0], "key": self.own[1]} if own else {}
        authority = Authority.open(self.pki, lifetime=lifetime)
        settings = GatewayConfig(directory=self.directory, **config)
        return GatewayCertificates(
            CertificateParts(settings, authority, lambda: self.names, self.units, self.problems)
        )

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def own_certificate(self, *, lifetime: timedelta = timedelta(days=90), key: bytes = b"") -> None:
        """Put an own certificate into its place, of an authority that nobody here knows."""
        secret = new_key()
        issued = CertificateAuthority.create("other").issue(
            new_csr(secret), "spiffe://x/y", lifetime=lifetime, dns=["chat.example.org"], server=True
        )
        self.own[0].write_bytes(issued.chain_pem)
        self.own[1].write_bytes(key or key_pem(secret))


@pytest.fixture
async def place(tmp_path: Path, bus: BusDaemon) -> AsyncIterator[Place]:
    async with fake_systemd(bus.address) as systemd, open_units(UnitsConfig(bus_address=bus.address)) as units:
        yield Place(tmp_path, units, systemd)


def placeholder(path: Path) -> None:
    """What the package's installation leaves: a certificate of nobody."""
    key = path.with_suffix(".key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=placeholder", "-days", "3650", "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(key.read_bytes() + path.read_bytes())
    key.unlink()


def lock(key: Path) -> None:
    """Put a passphrase on the key."""
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", str(key), "-out", str(key)]
    subprocess.run(command, check=True, capture_output=True)


@asynccontextmanager
async def kept(certificates: GatewayCertificates) -> AsyncIterator[None]:
    keeping = asyncio.create_task(certificates.keep_fresh(), name="keep fresh")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_the_three_files_are_loadable_and_for_the_group_only(place: Place) -> None:
    await place.certificates().look()
    context = ssl.create_default_context(cafile=str(place.directory / "cluster-ca.pem"))
    for name in ("gateway.pem", "web.pem"):
        context.load_cert_chain(place.directory / name)
    files = sorted(place.directory.iterdir())
    assert [file.name for file in files] == ["cluster-ca.pem", "gateway.pem", "web.pem"]
    for file in files:
        status = file.stat()
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert status.st_gid == place.directory.stat().st_gid
    assert hosts_of(load_credentials(place.directory / "gateway.pem").chain_pem) == {
        "gateway.clusterai", "mirror.clusterai",
    }
    assert hosts_of(load_credentials(place.directory / "web.pem").chain_pem) == set(NAMES)
    assert place.problems.all() == ()


async def test_fresh_files_stay_as_they_are_after_a_restart_too(place: Place) -> None:
    await place.certificates().look()
    before = place.read("gateway.pem"), place.read("web.pem")
    await place.certificates().look()
    assert (place.read("gateway.pem"), place.read("web.pem")) == before


async def test_placeholders_and_damaged_files_are_replaced(place: Place) -> None:
    placeholder(place.directory / "gateway.pem")
    (place.directory / "web.pem").write_text("nonsense")
    await place.certificates().look()
    ca = place.read("cluster-ca.pem").strip()
    assert ca in place.read("gateway.pem")
    assert ca in place.read("web.pem")


async def test_a_new_address_makes_another_web_certificate_and_leaves_the_gateway_s(place: Place) -> None:
    await place.units.start(UNIT)  # type: ignore[arg-type]
    certificates = place.certificates()
    await certificates.look()
    before, reloads = place.read("gateway.pem"), place.unit.reloads
    place.names = (*NAMES, "192.0.2.7")  # by DHCP, say
    await certificates.look()
    assert hosts_of(load_credentials(place.directory / "web.pem").chain_pem) == {*NAMES, "192.0.2.7"}
    assert place.read("gateway.pem") == before
    assert place.unit.reloads == reloads + 1
    await certificates.look()
    assert place.unit.reloads == reloads + 1


async def test_they_are_renewed_at_two_thirds_of_life_and_the_running_gateway_takes_them(place: Place) -> None:
    await place.units.start(UNIT)  # type: ignore[arg-type]
    certificates = place.certificates(lifetime=timedelta(seconds=6))
    async with kept(certificates):
        await until(lambda: place.unit.reloads == 1)
        first = load_credentials(place.directory / "gateway.pem")
        await until(lambda: load_credentials(place.directory / "gateway.pem") != first)
        assert datetime.now(UTC) < first.not_after
        await until(lambda: place.unit.reloads >= 2)


async def test_a_gateway_that_does_not_run_is_not_touched(place: Place) -> None:
    await place.certificates().look()
    assert place.unit.reloads == 0
    assert place.unit.properties["ActiveState"].value == "inactive"
    assert place.problems.all() == ()


async def test_what_an_earlier_daemon_wrote_before_it_died_is_taken_over_once(place: Place) -> None:
    await place.units.start(UNIT)  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    await place.certificates().look()
    assert place.unit.reloads == 1
    again = place.certificates()
    await again.look()
    await again.look()
    assert place.unit.reloads == 2


async def test_a_gateway_that_does_not_take_them_is_a_problem_and_asked_again(place: Place) -> None:
    await place.units.start(UNIT)  # type: ignore[arg-type]
    place.unit.job_result = "failed"
    certificates = place.certificates()
    await certificates.look()
    assert "does not take its new certificates" in place.problems.all()[0]
    place.unit.job_result = "done"
    await certificates.look()
    assert place.unit.reloads == 1
    assert place.problems.all() == ()


async def test_a_directory_that_cannot_be_written_is_a_problem_and_not_the_end(place: Place) -> None:
    (place.directory / "gateway.pem").mkdir()
    certificates = place.certificates()
    await certificates.look()
    assert "not renewed" in place.problems.all()[0]
    (place.directory / "gateway.pem").rmdir()
    await certificates.look()
    assert place.problems.all() == ()


async def test_where_there_is_no_gateway_nothing_is_made(place: Place) -> None:
    place.directory.rmdir()
    await place.certificates().look()
    assert not place.directory.exists()
    assert place.problems.all() == ()


async def test_the_administrator_s_own_certificate_is_shown_and_followed(place: Place) -> None:
    place.own_certificate()
    certificates = place.certificates(own=True)
    await certificates.look()
    assert hosts_of(load_credentials(place.directory / "web.pem").chain_pem) == {"chat.example.org"}
    assert place.read("cluster-ca.pem").strip() in place.read("gateway.pem")
    before = place.read("web.pem")
    place.own_certificate()
    await certificates.look()
    assert place.read("web.pem") != before
    assert place.own[1].read_bytes().strip() in place.read("web.pem")


@pytest.mark.parametrize("fault", ["another key", "expired", "nonsense", "missing", "passphrase"])
async def test_a_bad_own_certificate_keeps_the_old_one_and_is_a_problem(place: Place, fault: str) -> None:
    place.own_certificate()
    certificates = place.certificates(own=True)
    await certificates.look()
    before = place.read("web.pem")
    if fault == "another key":
        place.own_certificate(key=key_pem(new_key()))
    elif fault == "expired":
        place.own_certificate(lifetime=timedelta(seconds=0))
    elif fault == "nonsense":
        place.own[0].write_text("nonsense")
    elif fault == "missing":
        place.own[1].unlink()
    else:
        lock(place.own[1])
    await certificates.look()
    assert place.read("web.pem") == before
    assert "[gateway] certificate is not used" in place.problems.all()[0]
    place.own_certificate()
    await certificates.look()
    assert place.problems.all() == ()
    assert place.read("web.pem") != before


async def test_until_there_is_a_good_own_certificate_the_cluster_s_is_shown(place: Place) -> None:
    placeholder(place.directory / "web.pem")
    await place.certificates(own=True).look()
    assert hosts_of(load_credentials(place.directory / "web.pem").chain_pem) == set(NAMES)
    assert place.problems.all()


def test_names_are_hosts_each_once_and_what_is_none_is_left_out() -> None:
    reached = ["192.0.2.7", "Tower", "bad name", "2001:db8::1"]
    names = web_names(reached, "Tower.example.org", ["chat.example.org", "a;b"])
    assert names == (
        "chat.example.org", "192.0.2.7", "tower", "2001:db8::1", "tower.example.org", "tower.local", "localhost",
        "127.0.0.1", "::1",
    )
