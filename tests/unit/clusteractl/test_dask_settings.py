"""What a Dask client is given."""

import shlex
import stat
from pathlib import Path

import pytest
import yaml

from clusteractl.dask_environment import difference
from clusteractl.dask_settings import DaskClient, environment_lines, kept, with_host, yaml_text
from clusteractl.logins import Login
from clusteractl.target import Local, Remote, Target
from clusterai.credentials import load_credentials
from clusterai.pki import CertificateAuthority, key_pem, new_csr, new_key
from clusterai.v1.worker_pb2 import IssueDaskClientResponse
from support import samples

HERE = Local(Path("/run/clusterai/clusteraid.sock"))
CLIENT = DaskClient(
    "main",
    "tls://tower:8786",
    Path("/srv/my files/main.pem"),
    Path("/srv/my files/main-ca.pem"),
    samples.NOW,
    "Python 3.11, dask 2026.8.0",
)


def issued(common_name: str = "Dask test") -> tuple[bytes, IssueDaskClientResponse]:
    """A key, and what the daemon answers to its request."""
    authority, key = CertificateAuthority.create(common_name), new_key()
    certificate = authority.issue(new_csr(key), "spiffe://c-1/dask/main/ann", server=True)
    reply = IssueDaskClientResponse(
        certificate_chain_der=certificate.chain_der,
        ca_bundle_pem=authority.cert_pem,
        scheduler_address="tls://tower:8786",
        environment=samples.environment(),
        expires_unix_seconds=certificate.not_after.timestamp(),
    )
    return key_pem(key), reply


def test_the_lines_are_what_a_shell_reads() -> None:
    words = [shlex.split(line) for line in environment_lines(CLIENT).splitlines() if not line.startswith("#")]
    assert all(line[0] == "export" and len(line) == 2 for line in words)
    assert dict(line[1].split("=", 1) for line in words) == {
        "DASK_SCHEDULER_ADDRESS": "tls://tower:8786",
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": "/srv/my files/main-ca.pem",
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": "/srv/my files/main.pem",
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": "/srv/my files/main.pem",
    }


def test_the_yaml_is_the_same_settings() -> None:
    assert yaml.safe_load(yaml_text(CLIENT)) == {
        "scheduler-address": "tls://tower:8786",
        "distributed": {
            "comm": {
                "require-encryption": True,
                "tls": {
                    "ca-file": "/srv/my files/main-ca.pem",
                    "client": {"cert": "/srv/my files/main.pem", "key": "/srv/my files/main.pem"},
                },
            }
        },
    }


@pytest.mark.parametrize("written", [environment_lines(CLIENT), yaml_text(CLIENT)])
def test_the_comments_say_what_to_match_when_it_ends_and_what_it_is_worth(written: str) -> None:
    comments = "\n".join(line for line in written.splitlines() if line.startswith("# "))
    assert "Python 3.11, dask 2026.8.0" in comments
    assert "The certificate ends 2026-" in comments
    assert "as good as a shell" in comments


def test_key_and_certificate_are_for_their_owner_only(tmp_path: Path) -> None:
    key, reply = issued()
    client = kept(tmp_path / "dask", "main", HERE, key, reply)
    assert stat.S_IMODE(client.certificate.stat().st_mode) == 0o600
    assert stat.S_IMODE(client.certificate.parent.stat().st_mode) == 0o700
    assert load_credentials(client.certificate).key_pem.strip() == key.strip()
    assert client.authority.read_bytes() == reply.ca_bundle_pem


def test_two_clusters_with_pools_of_one_name_stay_apart(tmp_path: Path) -> None:
    first, second = (kept(tmp_path, "main", HERE, *issued(name)) for name in ("one", "two"))
    assert first.certificate != second.certificate
    assert first.authority != second.authority


def test_a_new_certificate_replaces_the_old_one(tmp_path: Path) -> None:
    key, reply = issued()
    first, second = (kept(tmp_path, "main", HERE, key, reply) for _ in range(2))
    assert first == second
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("address", "target", "whole"),
    [
        ("tls://tower:8786", HERE, "tls://tower:8786"),
        ("tls://:8786", HERE, "tls://127.0.0.1:8786"),
        ("tls://0.0.0.0:9000", HERE, "tls://127.0.0.1:9000"),
        ("tls://:8786", "tower.lan:7443", "tls://tower.lan:8786"),
        ("tls://:8786", "[2001:db8::1]:7443", "tls://[2001:db8::1]:8786"),
    ],
)
def test_an_address_without_a_host_gets_the_servers(address: str, target: Target | str, whole: str) -> None:
    assert with_host(address, remote(target) if isinstance(target, str) else target) == whole


def remote(address: str) -> Remote:
    """A login at an address; nobody connects."""
    from datetime import UTC, datetime

    from clusterai.credentials import Credentials

    life = datetime.now(UTC)
    return Remote(Login("ann", "c-1", (address,), b"", Credentials(b"", b"", life, life)))


def test_what_differs_from_the_pool_is_named() -> None:
    wanted = samples.environment()
    right = {**samples.VERSIONS, "python": "3.11"}
    assert difference(right, wanted) == ""
    assert difference({**right, "python": "3.11.2"}, wanted) == ""
    assert difference({**right, "python": "3.13"}, wanted) == "Python 3.11 is wanted, 3.13 is there"
    assert difference({**right, "dask": "2025.1.0"}, wanted) == "dask 2026.8.0 is wanted, 2025.1.0 is there"
    assert difference({"python": "3.11"}, wanted) == "cloudpickle 3.1.2 is wanted, none is there"
