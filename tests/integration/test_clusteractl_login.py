"""Working with a cluster from another machine: login over TLS, renewal, what goes wrong, logout."""

import json
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clusterai.credentials import load_credentials, save_credentials
from clusterai.pki import key_pem, new_csr, new_key
from clusterai.tokens import JoinToken
from support.aged import aged_certificate
from support.ctl import Ctl, Ended
from support.fake_daemon import CLUSTER_ID, FakeDaemon, made_up_cluster


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with made_up_cluster() as running:
        yield running


@pytest.fixture
def ctl(tmp_path: Path) -> Ctl:
    """A user on a machine without a daemon."""
    return Ctl(tmp_path)


async def logged_in(ctl: Ctl, daemon: FakeDaemon, *more: str) -> Ended:
    """Log in with a token on stdin."""
    return await ctl("login", "--server", daemon.enrollment_address, *more, stdin=f"{daemon.token()}\n")


def files(ctl: Ctl) -> Path:
    """Where the login is kept."""
    return ctl.home / ".config/clusterai"


async def test_after_login_commands_reach_the_cluster_over_tls(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await logged_in(ctl, daemon, "--name", "ann")
    assert (ended.code, ended.err) == (0, "")
    assert "You are ann at cluster c-5f1e0a77" in ended.out
    (request,) = daemon.asked("Enroll")
    assert (request.node_name, request.HasField("facts")) == ("ann", False)
    assert (await ctl("node", "list", "--json")).data["nodes"][0]["node_id"] == "tower"


async def test_the_login_is_three_files_and_the_key_is_for_its_owner(ctl: Ctl, daemon: FakeDaemon) -> None:
    await logged_in(ctl, daemon)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files(ctl).iterdir()}
    assert modes == {"operator.pem": "0o600", "ca.pem": "0o644", "config.json": "0o600"}
    assert json.loads((files(ctl) / "config.json").read_text()) == {
        "operator_name": "ann",
        "cluster_id": "c-5f1e0a77",
        "server_addresses": [daemon.address],
    }


async def test_the_token_may_come_from_a_file_and_never_from_the_arguments(ctl: Ctl, daemon: FakeDaemon) -> None:
    path = ctl.home / "token"
    path.write_text(f"  {daemon.token()}\n")
    ended = await ctl("login", "--server", daemon.enrollment_address, "--token-file", str(path), "--json")
    assert ended.data["operator_name"] == "ann"
    refused = await ctl("login", "--server", daemon.enrollment_address, str(daemon.token()))
    assert refused.code == 2


@pytest.mark.parametrize(
    ("stdin", "sentence"),
    [
        ("", "the token is missing"),
        ("hello\n", "this is not a join token"),
        ("cai1.x.y.z\n", "this is not a join token"),
    ],
)
async def test_no_token_or_a_wrong_one_is_a_usage_error(
    ctl: Ctl, daemon: FakeDaemon, stdin: str, sentence: str
) -> None:
    ended = await ctl("login", "--server", daemon.enrollment_address, stdin=stdin)
    assert ended.code == 2
    assert sentence in ended.err
    assert not files(ctl).exists()


async def test_a_token_of_another_cluster_is_not_sent(ctl: Ctl, daemon: FakeDaemon) -> None:
    other = JoinToken.new(b"\x01" * 32)
    ended = await ctl("login", "--server", daemon.enrollment_address, "--json", stdin=str(other))
    assert (ended.code, ended.error["code"]) == (4, "wrong-authority")
    assert daemon.asked("Enroll") == []
    assert not files(ctl).exists()


async def test_a_server_that_is_not_there_exits_with_5(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = await ctl("login", "--server", "127.0.0.1:1", stdin=str(daemon.token()))
    assert ended.code == 5
    assert "cannot reach 127.0.0.1:1" in ended.err


def age(ctl: Ctl, daemon: FakeDaemon, *, issued: timedelta, ends: timedelta) -> None:
    """Put a certificate in the login's place that was issued so long ago and ends so far from now."""
    key, now = new_key(), datetime.now(UTC)
    uri = f"spiffe://{CLUSTER_ID}/operator/ann"
    certificate = aged_certificate(daemon.authority, key, uri, now - issued, now + ends)
    save_credentials(files(ctl) / "operator.pem", key_pem(key), certificate)


async def test_a_young_login_is_left_alone(ctl: Ctl, daemon: FakeDaemon) -> None:
    await logged_in(ctl, daemon)
    age(ctl, daemon, issued=timedelta(days=4), ends=timedelta(days=3))
    before = (files(ctl) / "operator.pem").read_bytes()
    assert (await ctl("status")).code == 0
    assert daemon.asked("RenewOperator") == []
    assert (files(ctl) / "operator.pem").read_bytes() == before


async def test_a_login_renews_itself_at_two_thirds_of_its_life(ctl: Ctl, daemon: FakeDaemon) -> None:
    await logged_in(ctl, daemon)
    age(ctl, daemon, issued=timedelta(days=5), ends=timedelta(days=2))
    assert (await ctl("status")).code == 0
    assert (await ctl("status")).code == 0
    assert len(daemon.asked("RenewOperator")) == 1
    renewed = load_credentials(files(ctl) / "operator.pem")
    assert renewed.not_after - datetime.now(UTC) > timedelta(days=6)
    assert stat.S_IMODE((files(ctl) / "operator.pem").stat().st_mode) == 0o600


async def test_a_renewal_that_fails_is_said_and_the_command_goes_on(ctl: Ctl, daemon: FakeDaemon) -> None:
    await logged_in(ctl, daemon)
    age(ctl, daemon, issued=timedelta(days=5), ends=timedelta(days=2))
    daemon.cluster.refused.add("RenewOperator")
    ended = await ctl("status")
    assert ended.code == 0
    assert "your login could not be renewed, it ends 20" in ended.err
    assert "Cluster c-5f1e0a77" in ended.out


async def test_an_expired_login_says_how_to_log_in_again(ctl: Ctl, daemon: FakeDaemon) -> None:
    await logged_in(ctl, daemon)
    age(ctl, daemon, issued=timedelta(days=9), ends=timedelta(days=-2, seconds=-5))
    ended = await ctl("status")
    assert ended.code == 4
    assert "your login as ann expired 2 d ago" in ended.err
    assert "clusteractl login --server 127.0.0.1" in ended.err
    doctor = await ctl("doctor")
    assert doctor.code == 1
    assert "fix: clusteractl login --server 127.0.0.1" in doctor.out


async def test_a_certificate_that_the_server_refuses_is_unreachable_with_that_reason(
    ctl: Ctl, daemon: FakeDaemon
) -> None:
    """gRPC does not tell a refused certificate from no answer, so the hint names both."""
    async with made_up_cluster() as other:
        await logged_in(ctl, daemon)
        key = new_key()
        issued = other.authority.issue(new_csr(key), f"spiffe://{CLUSTER_ID}/operator/ann")
        save_credentials(files(ctl) / "operator.pem", key_pem(key), issued.chain_pem)
        ended = await ctl("status")
    assert ended.code == 5
    assert "a refused certificate" in ended.err


async def test_a_server_with_another_key_is_not_talked_to(ctl: Ctl, daemon: FakeDaemon) -> None:
    async with made_up_cluster() as impostor:
        await logged_in(ctl, daemon)
        config = files(ctl) / "config.json"
        config.write_text(config.read_text().replace(daemon.address, impostor.address))
        ended = await ctl("status")
        assert ended.code == 5
        assert impostor.requests == []


async def test_the_next_address_is_tried_when_the_first_is_dead(ctl: Ctl, daemon: FakeDaemon) -> None:
    await logged_in(ctl, daemon)
    config = files(ctl) / "config.json"
    written = json.loads(config.read_text())
    config.write_text(json.dumps({**written, "server_addresses": ["127.0.0.1:1", daemon.address]}))
    assert (await ctl("status")).code == 0


async def test_a_token_for_a_node_makes_no_operator(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.cluster.enrols_as = "node"
    ended = await logged_in(ctl, daemon)
    assert ended.code == 2
    assert "for a node, not for an operator" in ended.err
    assert not files(ctl).exists()


async def test_doctor_checks_the_login(ctl: Ctl, daemon: FakeDaemon) -> None:
    await logged_in(ctl, daemon)
    checks = (await ctl("doctor", "--json")).data["checks"]
    (login,) = (check for check in checks if check["check"] == "login")
    assert login["outcome"] == "ok"
    assert login["message"].startswith(f"ann at {daemon.address}, certificate ends in ")


async def test_logout_forgets_and_says_how_to_revoke(ctl: Ctl, daemon: FakeDaemon) -> None:
    await logged_in(ctl, daemon)
    ended = await ctl("logout")
    assert ended.code == 0
    assert "clusteractl operator revoke ann" in ended.out
    assert list(files(ctl).iterdir()) == []
    assert (await ctl("logout")).code == 3


async def test_a_damaged_login_names_the_file(ctl: Ctl, daemon: FakeDaemon) -> None:
    await logged_in(ctl, daemon)
    (files(ctl) / "operator.pem").write_bytes(b"\0" * 10_000)
    ended = await ctl("status", "--json")
    assert ended.code == 1
    assert ended.error["code"] == "bad-file"
    assert "operator.pem" in ended.error["message"]
