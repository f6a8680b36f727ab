"""Where new machines begin, and what `clusteractl doctor` says of the packages."""

import hashlib
from pathlib import Path

import pytest

from clusterai.v1.cluster_pb2 import CHECK_OUTCOME_OK, CHECK_OUTCOME_WARNING
from clusteraid.config import DaemonConfig, GatewayConfig, RepositoryConfig
from clusteraid.repository.package import Distribution, Package
from clusteraid.repository.published import Published, about_agents, setup_host
from clusteraid.repository.setup import setup_script
from clusteraid.repository.tools import is_older


def agent(version: str, distribution: Distribution = Distribution.DEBIAN) -> Package:
    return Package(distribution, "clusterai-agent", version, "all", "aa" * 32, 1)


def published(tmp_path: Path, *, port: int = 443, installed: bool = True) -> Published:
    config = DaemonConfig(gateway=GatewayConfig(https_port=port), repository=RepositoryConfig(tmp_path))
    return Published(config, lambda: ("2001:db8::1", "192.0.2.10"), lambda: installed)


@pytest.mark.parametrize(
    ("gateway", "hosts", "host"),
    [
        (GatewayConfig(), ("192.0.2.10", "tower.lan"), "192.0.2.10"),
        (GatewayConfig(), ("2001:db8::1", "tower.lan"), "tower.lan"),
        (GatewayConfig(names=("chat.lan",)), ("2001:db8::1",), "chat.lan"),
        (GatewayConfig(names=("chat.lan",), certificate=Path("c"), key=Path("k")), ("192.0.2.10",), "chat.lan"),
        (GatewayConfig(), ("2001:db8::1",), ""),
    ],
)
def test_new_machines_use_a_name_that_the_certificate_has_and_apt_takes(
    gateway: GatewayConfig, hosts: tuple[str, ...], host: str
) -> None:
    assert setup_host(DaemonConfig(gateway=gateway), hosts) == host


def test_the_script_is_told_with_its_hash_once_it_is_published(tmp_path: Path) -> None:
    assert published(tmp_path).setup() is None
    (tmp_path / "current").mkdir()
    (tmp_path / "current/setup.sh").write_bytes(b"script")
    told, elsewhere = published(tmp_path).setup(), published(tmp_path, port=8443).setup()
    assert told is not None
    assert elsewhere is not None
    assert told.url == "https://192.0.2.10/repo/setup.sh"
    assert told.sha256 == hashlib.sha256(b"script").hexdigest()
    assert elsewhere.url == "https://192.0.2.10:8443/repo/setup.sh"
    assert published(tmp_path, installed=False).setup() is None


def test_an_agent_as_new_as_the_daemon_is_well() -> None:
    for version in ("1.0", "1.0+next1", "1:0.1"):
        assert about_agents([agent("0.9"), agent(version)], "1.0", is_older).outcome == CHECK_OUTCOME_OK


@pytest.mark.parametrize("packages", [[], [agent("0.9")], [agent("2.0", Distribution.TERMUX)]])
def test_an_agent_that_is_missing_or_older_than_the_daemon_is_a_warning(packages: list[Package]) -> None:
    result = about_agents(packages, "1.0", is_older)
    assert result.outcome == CHECK_OUTCOME_WARNING
    assert "clusteraid repo add" in result.fix


def test_the_script_carries_the_cluster_s_values_and_nothing_is_left_open() -> None:
    text = setup_script("CA\n", "KEY\n", "ABCD").decode()
    assert "CLUSTER_CA='CA'\nREPOSITORY_KEY='KEY'\nFINGERPRINT='ABCD'\n" in text
    assert "@" not in text.replace('"$@"', "")
    with pytest.raises(ValueError, match="quote"):
        setup_script("'; reboot '", "KEY", "ABCD")
