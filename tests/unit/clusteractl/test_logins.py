"""The login on disk."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clusteractl.commands.login import reachable
from clusteractl.errors import LoginExpired
from clusteractl.logins import Logins
from clusteractl.renewal import check_login
from clusterai.files import BadFile
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key


@pytest.fixture
def logins(tmp_path: Path) -> Logins:
    """A login of ann."""
    authority, key = CertificateAuthority.create("Cluster AI test"), new_key()
    issued = authority.issue(new_csr(key), "spiffe://c-1/operator/ann")
    kept = Logins(tmp_path / "config/clusterai")
    kept.save_credentials(key_pem(key), issued.chain_pem)
    kept.save("ann", "c-1", ("tower:7443",), authority.cert_pem)
    return kept


def test_without_files_there_is_no_login(tmp_path: Path) -> None:
    assert Logins(tmp_path).load() is None


def test_a_login_comes_back_whole(logins: Logins) -> None:
    login = logins.load()
    assert login is not None
    assert (login.operator, login.cluster_id, login.addresses) == ("ann", "c-1", ("tower:7443",))
    assert login.ca_pem.startswith(b"-----BEGIN CERTIFICATE")
    assert timedelta(days=6) < login.credentials.not_after - datetime.now(UTC) <= timedelta(days=7)


def test_the_key_is_for_its_owner_only(logins: Logins) -> None:
    assert stat.S_IMODE((logins.directory / "operator.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(logins.directory.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        "not json",
        json.dumps({"operator_name": "ann", "cluster_id": "c", "server_addresses": 3}),
        json.dumps({"operator_name": "ann", "cluster_id": "c", "server_addresses": []}),
    ],
)
def test_a_damaged_login_names_the_file_and_the_way_out(logins: Logins, config: str) -> None:
    (logins.directory / "config.json").write_text(config)
    with pytest.raises(BadFile, match=r"config\.json") as caught:
        logins.load()
    assert caught.value.advice


def test_a_lost_certificate_is_said_not_guessed(logins: Logins) -> None:
    (logins.directory / "operator.pem").unlink()
    with pytest.raises(BadFile, match=r"operator\.pem"):
        logins.load()


def test_removing_leaves_nothing_of_it_behind(logins: Logins) -> None:
    assert logins.remove()
    assert list(logins.directory.iterdir()) == []
    assert not logins.remove()


def test_an_expired_login_says_when_and_how_to_log_in_again(logins: Logins) -> None:
    login = logins.load()
    assert login is not None
    check_login(login, login.credentials.not_after - timedelta(seconds=1))
    with pytest.raises(LoginExpired, match="ann expired 3 d ago") as caught:
        check_login(login, login.credentials.not_after + timedelta(days=3))
    assert "clusteractl login --server tower" in caught.value.advice
    assert caught.value.status.exit_code == 4


@pytest.mark.parametrize(
    ("server", "told", "addresses"),
    [
        ("tower.lan", ("192.0.2.10:7443", "tower:7443"), ("tower.lan:7443", "192.0.2.10:7443", "tower:7443")),
        ("tower:9444", ("tower:9443",), ("tower:9443",)),
        ("tower", (), ("tower:7443",)),
        ("[2001:db8::1]:7444", ("192.0.2.10:7443",), ("[2001:db8::1]:7443", "192.0.2.10:7443")),
    ],
)
def test_the_host_that_answered_is_tried_first(server: str, told: tuple[str, ...], addresses: tuple[str, ...]) -> None:
    assert reachable(server, told) == addresses
