"""`clusteraid repo`: what it takes, what it refuses, and that it is there whole or as it was, whatever happens."""

import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterai.pki import CertificateAuthority
from support.debs import TERMUX, Server, make_deb
from support.tree import python_path

KILLS = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as state:  # short, for gpg's sockets
        yield Server(Path(state), tmp_path / "repo", CertificateAuthority.create("test cluster", "spiffe://test"))


@pytest.fixture
def debs(tmp_path: Path) -> Path:
    (tmp_path / "debs").mkdir()
    return tmp_path / "debs"


def tree(directory: Path) -> list[str]:
    """Return every path below the directory but the lock's."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.name != ".lock")


def test_packages_are_listed_for_people_and_for_scripts(
    server: Server, debs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.repo("list") == 0
    assert "sudo clusteraid repo add" in capsys.readouterr().out
    assert server.repo("add", make_deb(debs), make_deb(debs, prefix=TERMUX, version="2.0")) == 0
    assert "published clusterai-agent 2.0 (termux, all)" in capsys.readouterr().out
    assert server.repo("list") == 0
    assert capsys.readouterr().out.split() == [
        "debian", "clusterai-agent", "1.0", "all", "termux", "clusterai-agent", "2.0", "all",
    ]  # fmt: skip
    assert server.repo("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["packages"]
    assert [sorted(one) for one in listed] == [
        ["architecture", "distribution", "name", "sha256", "size_bytes", "version"]
    ] * 2


def test_what_a_package_is_called_in_the_file_system_means_nothing(server: Server, debs: Path) -> None:
    make_deb(debs).rename(debs / "other_9.9_arm64.deb")
    assert server.repo("add", debs / "other_9.9_arm64.deb") == 0
    assert server.published() == ["clusterai-agent 1.0"]


def test_old_versions_are_withdrawn_when_there_are_more_than_are_kept(server: Server, debs: Path) -> None:
    server.configure("keep_versions = 2")
    for version in ("1.0", "1.1", "1.2"):
        assert server.repo("add", make_deb(debs, version=version)) == 0
    assert server.published() == ["clusterai-agent 1.2", "clusterai-agent 1.1"]


def bad_files(directory: Path, good: Path) -> dict[str, Path]:
    """Return files that are no good packages, by what is said of them."""
    whole = good.read_bytes()
    for name, content in {"text": b"no package", "empty": b"", "half": whole[: len(whole) // 2],
                          "short": whole[:-200]}.items():  # fmt: skip
        (directory / name).write_bytes(content)
    (directory / "link").symlink_to(good)
    os.mkfifo(directory / "fifo")
    (directory / "directory").mkdir()
    return {name: directory / name for name in ("text", "empty", "half", "short", "link", "fifo", "directory", "none")}


def test_what_is_no_package_is_refused_and_what_came_with_it_too(
    server: Server, debs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = make_deb(debs), tmp_path / "bad"
    bad.mkdir()
    for name, path in bad_files(bad, good).items():
        code = server.repo("add", good, path)
        said = capsys.readouterr().err
        assert code == 2, name
        assert str(path) in said, name
        assert len(said.splitlines()) == 2, said
    assert tree(server.repository) in ([], ["releases"])


@pytest.mark.parametrize(
    ("name", "version", "architecture", "prefix"),
    [("clusterai-agent", "1.0", "aarch64", "usr"), ("clusterai-agent", "1.0", "amd64", TERMUX)],
)
def test_an_architecture_that_no_machine_of_the_distribution_has_is_refused(
    server: Server, debs: Path, name: str, version: str, architecture: str, prefix: str
) -> None:
    assert server.repo("add", make_deb(debs, name, version, architecture=architecture, prefix=prefix)) == 2
    assert server.published() == []


def test_a_package_for_both_distributions_is_refused(
    server: Server, debs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.repo("add", make_deb(debs, extra=[f"{TERMUX}/bin/x"])) == 2
    assert "for Debian and for Termux" in capsys.readouterr().err


def test_versions_go_up_and_never_change(server: Server, debs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_deb(debs, version="1.1")
    assert server.repo("add", first) == 0
    before = server.current.resolve()
    assert server.repo("add", first) == 0
    assert server.repo("add", make_deb(debs, version="1.1", content="other")) == 1
    assert "with other content" in capsys.readouterr().err
    assert server.repo("add", make_deb(debs, version="1.0")) == 1
    assert "clusteraid repo remove clusterai-agent=1.1" in capsys.readouterr().err
    assert server.current.resolve() == before


def test_a_package_is_removed_by_name_and_version(server: Server, debs: Path) -> None:
    for version in ("1.0", "1.1"):
        server.repo("add", make_deb(debs, version=version))
    assert server.repo("remove", "clusterai-agent=1.1") == 0
    assert server.published() == ["clusterai-agent 1.0"]
    assert server.repo("remove", "clusterai-agent=1.1") == 3
    assert server.repo("remove", "clusterai-agent=") == 3
    assert server.repo("remove", "../clusterai-agent") == 3
    assert server.repo("remove", "clusterai-agent") == 0
    assert server.published() == []


def test_a_full_disk_leaves_the_repository_as_it_was(server: Server, debs: Path) -> None:
    large = debs / "large.deb"
    noise = "".join(random.Random(1).choices("0123456789abcdef", k=4 << 20))
    make_deb(debs, version="2.0", content=noise).rename(large)
    small = make_deb(debs, version="1.0")
    script = (
        'mount -t tmpfs -o size=1m,mode=0700 tmpfs "$1"; shift; "$@" add "$SMALL" >&2; '
        '! "$@" add "$LARGE" || exit 9; "$@" list; "$@" add "$OTHER" >&2; "$@" list'
    )
    command = ["unshare", "-Urm", "sh", "-euc", script, "sh", str(server.repository), *server.program()]
    names = {"SMALL": str(small), "LARGE": str(large), "OTHER": str(make_deb(debs, "other"))}
    done = subprocess.run(
        command, env={**python_path(), **names}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stderr
    assert "df " in done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["clusterai-agent", "clusterai-agent", "other"]


def test_killed_at_any_moment_it_is_as_before_or_as_after(server: Server, debs: Path) -> None:
    assert server.repo("add", make_deb(debs, version="1.0")) == 0
    dice = random.Random(4)
    for number in range(1, KILLS + 1):
        package, before = make_deb(debs, version=f"1.{number}"), server.published()
        command = server.program("add", package)
        with subprocess.Popen(command, env=python_path(), stdout=subprocess.DEVNULL, start_new_session=True) as process:
            time.sleep(dice.uniform(0.2, 0.9))
            os.killpg(process.pid, signal.SIGKILL)
        assert server.published() in (before, [f"clusterai-agent 1.{number}", *before][:3])
        assert (server.current / "debian/dists/stable/InRelease").stat().st_size > 0
    assert server.repo("add", make_deb(debs, version="2.0")) == 0
    assert server.published()[0] == "clusterai-agent 2.0"
    assert sorted(path.name for path in server.repository.iterdir()) == [".lock", "current", "releases"]


def test_two_at_once_take_turns(server: Server, debs: Path) -> None:
    packages = [make_deb(debs, name) for name in ("one", "two", "three")]
    commands = [server.program("add", package) for package in packages]
    running = [subprocess.Popen(command, env=python_path(), stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert sorted(server.published()) == ["one 1.0", "three 1.0", "two 1.0"]


def test_a_lost_key_is_never_replaced_silently(server: Server, debs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.repo("add", make_deb(debs))
    key = server.state / "repository-key.asc"
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_bytes()
    key.unlink()
    assert server.repo("add", make_deb(debs, version="1.1")) == 1
    assert "restore it from a backup" in capsys.readouterr().err
    assert server.published() == ["clusterai-agent 1.0"]
    key.write_bytes(secret)
    assert server.repo("add", make_deb(debs, version="1.1")) == 0


def test_a_state_directory_too_deep_for_gpg_says_so(
    tmp_path: Path, debs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(tmp_path / ("deep/" * 20), tmp_path / "repo", CertificateAuthority.create("test cluster"))
    assert server.repo("add", make_deb(debs)) == 2
    assert "set `state_directory` below `[server]` to a shorter path" in capsys.readouterr().err
    assert server.published() == []


def test_a_damaged_key_changes_nothing(server: Server, debs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.repo("add", make_deb(debs))
    (server.state / "repository-key.asc").write_text("no key\n")
    assert server.repo("add", make_deb(debs, version="1.1")) == 1
    assert "gpg failed" in capsys.readouterr().err
    assert server.published() == ["clusterai-agent 1.0"]


def test_it_is_renewed_when_it_is_due_or_the_script_is_another(
    server: Server, debs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.repo("renew") == 0
    server.repo("add", make_deb(debs))
    listed = server.current / "packages.json"
    assert server.repo("renew") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is due"
    told = json.loads(listed.read_text())
    told["published_unix_seconds"] -= 11 * 86400
    listed.write_text(json.dumps(told))
    assert server.repo("renew") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "signed anew"
    (server.state / "pki/cluster-ca.pem").write_bytes(CertificateAuthority.create("new", "spiffe://new").cert_pem)
    assert server.repo("renew") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "signed anew"
    assert server.published() == ["clusterai-agent 1.0"]


def test_without_a_server_or_its_authority_it_says_what_is_missing(
    server: Server, debs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (server.state / "pki/cluster-ca.pem").unlink()
    assert server.repo("add", make_deb(debs)) == 1
    assert "systemctl start clusteraid" in capsys.readouterr().err
    server.repository.rename(server.directory / "elsewhere")
    assert server.repo("list") == 1
    assert "where the package clusteraid is installed" in capsys.readouterr().err


def test_nobody_reads_the_repository_s_files_but_its_owner_and_the_gateway_s_group(server: Server, debs: Path) -> None:
    server.repo("add", make_deb(debs))
    modes = {path.stat().st_mode & 0o7 for path in server.repository.rglob("*") if not path.is_symlink()}
    assert modes == {0}
    files = [path for path in server.current.resolve().rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}
