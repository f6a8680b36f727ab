"""`clusteractl` and the real daemon: they mean the same."""

import tempfile
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from support.ctl import Ctl
from support.killable import KillableDaemon, killable_daemon


@pytest.fixture
async def daemon() -> AsyncIterator[KillableDaemon]:
    with tempfile.TemporaryDirectory() as directory:
        async with killable_daemon(Path(directory)) as running:
            yield running


@pytest.fixture
def admin(daemon: KillableDaemon, tmp_path: Path) -> Ctl:
    """Root on the server."""
    return Ctl(tmp_path / "admin", daemon.socket)


async def person(daemon: KillableDaemon, admin: Ctl, home: Path, role: str) -> Ctl:
    """Somebody on another machine who logged in with a token of that role, under that name."""
    made = await admin("token", "create", "--role", role, "--name", role)
    user = Ctl(home)
    ended = await user("login", "--server", await daemon.enrollment_address(), stdin=made.out)
    assert ended.code == 0, ended.err
    assert f"You are {role} at cluster" in ended.out
    return user


READING = (
    *("status", "node list", "worker list", "token list", "operator list", "unit list", "events", "version"),
    *("ca", "key list"),
)
OF_NOBODY = (
    *("node show nobody", "node drain nobody", "node undrain nobody", "node remove nobody", "node reject nobody"),
    *("node approve nobody --code AAA-AAA", "token revoke aaaaaaaa", "operator revoke nobody", "unit stop nothing"),
)


async def test_every_list_of_a_new_cluster_can_be_read(admin: Ctl) -> None:
    for command in READING:
        seen, had = await admin(*command.split()), await admin(*command.split(), "--json")
        assert (command, seen.code, seen.err, had.code, had.err) == (command, 0, "", 0, "")


async def test_both_ways_lead_to_one_cluster(daemon: KillableDaemon, admin: Ctl, tmp_path: Path) -> None:
    ann = await person(daemon, admin, tmp_path / "ann", "operator")
    there, here = (await ann("status", "--json")).data, (await admin("status", "--json")).data
    assert there["cluster_id"] == here["cluster_id"]
    assert (await admin("operator", "list", "--json")).data["operators"][0]["role"] == "operator"
    kinds = [event["kind"] for event in (await admin("events", "--json")).records]
    assert "token-used" in kinds


async def test_the_authority_is_told_alike_on_the_server_and_to_a_viewer_elsewhere(
    daemon: KillableDaemon, admin: Ctl, tmp_path: Path
) -> None:
    viewer = await person(daemon, admin, tmp_path / "viewer", "viewer")
    told = (await admin("ca")).out
    assert (await viewer("ca")).out == told
    authority = load_pem_x509_certificate(told.encode())
    shown = authority.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert (await admin("ca", "--json")).data["ca_fingerprint"] == sha256(shown).hexdigest()
    assert (tmp_path / "viewer/.config/clusterai/ca.pem").read_text() == told


async def test_a_key_of_the_real_daemon_is_made_listed_and_revoked(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "gateway").mkdir(mode=0o750)
        settings = f'[gateway]\ndirectory = "{directory}/gateway"\nnames = ["chat.example.org"]\n'
        async with killable_daemon(Path(directory), settings=settings) as daemon:
            admin = Ctl(tmp_path, daemon.socket)
            made = await admin("key", "create", "ann", "--model", "llama3.2:3b", "--ttl", "30d")
            assert made.code == 0, made.err
            assert made.out.startswith("cak1.")
            assert "https://chat.example.org:11434/api/chat" in made.err
            assert (await admin("key", "create", "--json")).data["key"]["name"]
            assert [key["name"] for key in (await admin("key", "list", "--json")).data["keys"]].count("ann") == 1
            assert (await admin("key", "revoke", "ann")).code == 0
            assert (await admin("key", "revoke", "ann")).code == 3
            assert "none yet, gateway stopped (its unit is not installed)" in (await admin("status")).out


async def test_a_viewer_sees_and_may_not_change(daemon: KillableDaemon, admin: Ctl, tmp_path: Path) -> None:
    viewer = await person(daemon, admin, tmp_path / "viewer", "viewer")
    assert (await viewer("node", "list")).code == 0
    refused = await viewer("node", "remove", "tower", "--json")
    assert (refused.code, refused.out) == (4, "")
    assert refused.error["hint"]


async def test_a_revoked_operator_is_refused_at_once(daemon: KillableDaemon, admin: Ctl, tmp_path: Path) -> None:
    ann = await person(daemon, admin, tmp_path / "ann", "operator")
    assert (await admin("operator", "revoke", "operator")).code == 0
    assert (await ann("status")).code == 4


async def test_a_token_works_once(daemon: KillableDaemon, admin: Ctl, tmp_path: Path) -> None:
    made = await admin("token", "create", "--role", "operator", "--name", "ann")
    address = await daemon.enrollment_address()
    assert (await Ctl(tmp_path / "first")("login", "--server", address, stdin=made.out)).code == 0
    second = await Ctl(tmp_path / "second")("login", "--server", address, stdin=made.out)
    assert second.code == 4
    assert "clusteractl token create" in second.err


async def test_a_revoked_token_lets_nobody_in(daemon: KillableDaemon, admin: Ctl, tmp_path: Path) -> None:
    made = (await admin("token", "create", "--role", "operator", "--name", "ann", "--json")).data
    assert (await admin("token", "revoke", made["details"]["token_id"])).code == 0
    address = await daemon.enrollment_address()
    assert (await Ctl(tmp_path / "ann")("login", "--server", address, stdin=made["token"])).code == 4


async def test_what_is_not_there_exits_with_3_and_a_hint(admin: Ctl) -> None:
    for command in OF_NOBODY:
        ended = await admin(*command.split(), "--json")
        assert (command, ended.code, ended.out) == (command, 3, "")
        assert ended.error["message"]
        assert ended.error["hint"]


async def test_doctor_runs_the_servers_checks(admin: Ctl) -> None:
    checks = (await admin("doctor", "--json")).data["checks"]
    servers = {check["check"] for check in checks if check["where"] == "server"}
    wanted = {"clock", "certificates", "ports", "multicast", "units", "polkit", "environment", "disk", "store"}
    assert wanted <= servers
    assert [check for check in checks if check["outcome"] in ("failed", "warning") and not check["fix"]] == []


async def test_the_dask_certificate_is_of_the_dask_ca(daemon: KillableDaemon, admin: Ctl) -> None:
    given = (await admin("dask", "env", "--json")).data
    assert Path(given["ca_file"]).read_bytes() == (daemon.state / "pki/dask-ca.pem").read_bytes()
    assert given["environment"]["versions"]["dask"]


async def test_a_killed_daemon_is_unreachable(daemon: KillableDaemon, admin: Ctl) -> None:
    await daemon.kill()
    ended = await admin("status", "--json")
    assert (ended.code, ended.error["code"]) == (5, "unreachable")
