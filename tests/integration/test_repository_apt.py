"""The real apt reads the repository through the real gateway: it installs what is signed, and nothing else."""

import asyncio
import hashlib
import http.client
import json
import lzma
import os
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path

import pytest

from clusteractl.views.lists import token_commands
from clusterai.pki import CertificateAuthority
from clusterai.v1.cluster_pb2 import (
    CHECK_OUTCOME_FAILED,
    CHECK_OUTCOME_NOT_APPLICABLE,
    CHECK_OUTCOME_OK,
    CHECK_OUTCOME_WARNING,
    CheckResult,
)
from clusterai.v1.token_pb2 import ROLE_NODE, CreateTokenResponse, Token
from clusteraid.config import load_config
from clusteraid.repository.key import SigningKey
from clusteraid.repository.published import Published
from support.debs import TERMUX, Server, make_deb
from support.gateway import Gateway, certificate, running_gateway
from support.private_apt import PREFIX, PrivateApt
from support.tree import python_path

ROUNDS = 12
RELEASE = "debian/dists/stable/InRelease"
SUDO = '#!/bin/sh\nexec "$@" $SETUP_OPTIONS\n'


@dataclass
class Site:
    """A server whose gateway serves its repository, and a machine."""

    gateway: Gateway
    server: Server
    machine: PrivateApt
    debs: Path
    host: str = "localhost"

    @property
    def url(self) -> str:
        """Where the repository is served."""
        return f"https://{self.host}:{self.gateway.https_port}/repo"

    def add(self, version: str = "1.0", name: str = "clusterai-agent", **options: str) -> Path:
        """Make a package and publish it."""
        package = make_deb(self.debs, name, version, **options)
        assert self.server.repo("add", package) == 0
        return package

    def use(self, machine: PrivateApt | None = None, distribution: str = "debian") -> None:
        """Let a machine know the repository."""
        machine = machine or self.machine
        key = machine.home / "clusterai.asc"
        shutil.copy(self.server.current / "clusterai.asc", key)
        machine.write_source(f"{self.url}/{distribution}", key, self.gateway.state / "cluster-ca.pem")

    def line(self) -> str:
        """Return the line that `clusteractl token create` prints."""
        script = (self.server.current / "setup.sh").read_bytes()
        return token_commands(
            CreateTokenResponse(
                details=Token(role=ROLE_NODE), server_addresses=[f"{self.host}:7444"], setup_url=f"{self.url}/setup.sh",
                setup_sha256=hashlib.sha256(script).hexdigest(),
            )
        )[0]

    def run_line(self, line: str, options: str = "--yes", answer: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a line as a user of the machine; its sudo gives the script some more options."""
        tools = self.machine.root / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "sudo").write_text(SUDO)
        (tools / "sudo").chmod(0o755)
        environment = {**self.machine.environment, "SETUP_OPTIONS": f"--root {self.machine.root} {options}"}
        environment["PATH"] = f"{tools}:{environment['PATH']}"
        environment["TMPDIR"] = str(self.machine.root)
        return subprocess.run(
            ["sh", "-c", line], env=environment, input=answer, capture_output=True, text=True, timeout=120, check=False
        )

    def change(self, path: str, content: bytes) -> None:
        """Replace a served file, as somebody who can write on the server or the wire could."""
        file = self.server.current / path
        file.unlink()  # it may be a link to what another release has
        file.write_bytes(content)

    def get(self, path: str) -> tuple[int, bytes]:
        """Return what the gateway answers to a plain request."""
        context = ssl.create_default_context(cadata=self.gateway.authority.cert_pem.decode())
        port = self.gateway.https_port
        with closing(http.client.HTTPSConnection("localhost", port, timeout=30, context=context)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()


def text_of(signed: bytes) -> bytes:
    """Return what was signed."""
    return signed.partition(b"\n\n")[2].partition(b"-----BEGIN PGP SIGNATURE")[0]


def valid_for(signed: bytes, days: int) -> bytes:
    """Return the release file with another end."""
    until = format_datetime(datetime.now(UTC) + timedelta(days=days)).encode()
    return re.sub(rb"(?m)^Valid-Until: .*$", b"Valid-Until: " + until, text_of(signed))


async def published_by_program(site: Site, package: Path) -> None:
    """Publish where an event loop runs."""
    process = await asyncio.create_subprocess_exec(
        *site.server.program("add", package), env=python_path(), stdout=subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), 60) == 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_gateway(tmp_path) as gateway, tempfile.TemporaryDirectory() as state:  # short, for gpg's sockets
        (tmp_path / "debs").mkdir()
        server = Server(Path(state), gateway.repository, gateway.authority)
        yield Site(gateway, server, PrivateApt(tmp_path / "machine"), tmp_path / "debs")


def configured(machine: PrivateApt) -> set[str]:
    """Return the files below etc/apt that the script writes."""
    return {path.name for path in (machine.root / "etc/apt").rglob("*clusterai*")}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_printed_line_installs_the_agent_and_says_what_is_next(site: Site, host: str) -> None:
    site.host = host
    site.add(depends="python3-clusterai")
    site.add(name="python3-clusterai")
    done = site.run_line(site.line())
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.machine.version("clusterai-agent") == "1.0"
    assert (site.machine.root / "usr/share/python3-clusterai/version").read_text() == "1.0"
    assert f"get packages from the Cluster AI server at {site.url}" in done.stdout
    assert f"sudo clusterai-agent join --server {host}" in done.stdout.splitlines()[-1]
    assert configured(site.machine) == {"clusterai.sources", "clusterai.asc", "clusterai-ca.pem", "80clusterai"}
    assert site.run_line(site.line()).returncode == 0, "a second time does no harm"


def test_the_script_asks_first_and_changes_nothing_without_a_yes(site: Site) -> None:
    site.add()
    for answer in ("n\n", "\n", ""):
        done = site.run_line(site.line(), options="", answer=answer)
        assert done.returncode == 1
        assert "apt-get install clusterai-agent" in done.stdout
        assert configured(site.machine) == set()
    assert site.run_line(site.line(), options="--only-source", answer="y\n").returncode == 0
    assert site.machine.version("clusterai-agent") == ""


def test_a_script_that_was_changed_on_the_way_does_not_run(site: Site) -> None:
    site.add()
    line, script = site.line(), (site.server.current / "setup.sh").read_bytes()
    site.change("setup.sh", script.replace(b"set -eu\n", b"set -eu\necho it ran\n", 1))
    done = site.run_line(line)
    assert done.returncode != 0
    assert "FAILED" in done.stdout + done.stderr
    assert "it ran" not in done.stdout
    assert configured(site.machine) == set()
    site.change("setup.sh", script[:-10])
    assert site.run_line(line).returncode != 0
    assert configured(site.machine) == set()


@pytest.mark.parametrize("options", ["http://localhost/repo", "https://local$(host)/repo", "https://a:b/repo",
                                     "https://-o/repo", "https://[::1]/repo", "--what", "https://a:80x/repo", "--root"])
def test_the_script_refuses_what_is_no_server(site: Site, options: str) -> None:
    site.add()
    script = site.server.current / "setup.sh"
    done = subprocess.run(
        ["sh", script, "--yes", "--root", site.machine.root, *options.split()], env=site.machine.environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert configured(site.machine) == set()


def test_a_server_that_apt_cannot_use_leaves_nothing_on_a_new_machine(site: Site) -> None:
    site.add()
    line = site.line()
    site.change(RELEASE, (site.server.current / RELEASE).read_bytes().replace(b"Cluster AI", b"Cluster IA"))
    done = site.run_line(line)
    assert done.returncode == 1
    assert "apt cannot use" in done.stderr
    assert configured(site.machine) == set()


def test_a_machine_that_had_it_keeps_it_when_the_server_is_away(site: Site) -> None:
    site.add()
    line = site.line()
    assert site.run_line(line, options="--yes --only-source").returncode == 0
    site.change(RELEASE, b"nothing\n")
    assert site.run_line(line).returncode == 1
    assert "clusterai.sources" in configured(site.machine)


def test_the_line_run_again_brings_another_address_and_another_key(site: Site) -> None:
    """No package does: what apt trusts changes when an administrator says so."""
    site.add("1.0")
    assert site.run_line(site.line()).returncode == 0
    shutil.rmtree(site.server.repository / "releases")
    (site.server.repository / "current").unlink()
    (site.server.state / "repository-key.asc").unlink()
    site.add("1.1")
    refused = site.machine.update()
    assert refused.returncode != 0
    assert "NO_PUBKEY" in refused.stdout
    site.host = "127.0.0.1"
    done = site.run_line(site.line())
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.machine.version("clusterai-agent") == "1.1"
    for name in ("sources.list.d/clusterai.sources", "apt.conf.d/80clusterai"):
        assert "localhost" not in (site.machine.home / "etc/apt" / name).read_text()


def test_an_upgrade_comes_with_apt(site: Site) -> None:
    site.add("1.0")
    site.use()
    assert site.machine.update().returncode == 0
    assert site.machine.install("clusterai-agent").returncode == 0
    site.add("1.1")
    assert site.machine.update().returncode == 0
    done = site.machine.run("upgrade", "-y")
    assert done.returncode == 0, done.stdout
    assert site.machine.version("clusterai-agent") == "1.1"
    assert site.machine.install("--allow-downgrades", "clusterai-agent=1.0").returncode == 0


def test_a_package_with_other_bytes_is_refused(site: Site) -> None:
    package = site.add()
    site.use()
    assert site.machine.update().returncode == 0
    served = next((site.server.current / "debian/pool").rglob("*.deb"))
    other = make_deb(site.debs, content="else")
    content = other.read_bytes()[: package.stat().st_size].ljust(package.stat().st_size, b"x")
    site.change(str(served.relative_to(site.server.current)), content)
    done = site.machine.install("clusterai-agent")
    assert done.returncode != 0
    assert "Hash Sum mismatch" in done.stdout
    assert site.machine.version("clusterai-agent") == ""


def test_an_index_with_other_bytes_is_refused(site: Site) -> None:
    site.add()
    site.use()
    for index in (site.server.current / "debian/dists/stable/main").rglob("*"):
        if index.is_file():
            content = index.read_bytes()
            told = lzma.decompress(content) if content.startswith(b"\xfd7z") else content
            told = told.replace(b"Description: test", b"Description: tset")
            content = lzma.compress(told) if content.startswith(b"\xfd7z") else told
            site.change(str(index.relative_to(site.server.current)), content)
    done = site.machine.update()
    assert done.returncode != 0
    assert "Hash Sum mismatch" in done.stdout or "unexpected size" in done.stdout, done.stdout


def test_a_release_file_that_was_changed_or_is_not_signed_is_refused(site: Site) -> None:
    site.add()
    site.use()
    signed = (site.server.current / RELEASE).read_bytes()
    text = text_of(signed)
    for content in (signed.replace(b"Architectures: all", b"Architectures: al1"), text, b"", signed[:300]):
        site.change(RELEASE, content)
        assert site.machine.update().returncode != 0, content
    (site.server.current / RELEASE).unlink()
    (site.server.current / "debian/dists/stable/Release").write_bytes(text)
    done = site.machine.update()
    assert done.returncode != 0
    assert "is not signed" in done.stdout
    site.change("debian/dists/stable/Release", text)
    (site.server.current / RELEASE).write_bytes(signed)
    assert site.machine.update().returncode == 0


def test_a_repository_that_another_key_signed_is_refused(site: Site, tmp_path: Path) -> None:
    site.add()
    site.use()
    (tmp_path / "other").mkdir()
    other = SigningKey(tmp_path / "other/key.asc")
    other.make()
    site.change(RELEASE, other.sign(text_of((site.server.current / RELEASE).read_bytes())))
    done = site.machine.update()
    assert done.returncode != 0
    assert "NO_PUBKEY" in done.stdout


def test_a_repository_that_has_expired_is_refused_until_it_is_renewed(site: Site) -> None:
    site.add()
    site.use()
    key = SigningKey(site.server.state / "repository-key.asc")
    signed = (site.server.current / RELEASE).read_bytes()
    until = next(line for line in signed.decode().splitlines() if line.startswith("Valid-Until:"))
    left = parsedate_to_datetime(until.partition(":")[2]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    site.change(RELEASE, key.sign(valid_for(signed, -1)))
    done = site.machine.update()
    assert done.returncode != 0
    assert "expired" in done.stdout
    when = (site.server.current / RELEASE).stat().st_mtime_ns
    (site.server.current / "setup.sh").write_text("old")
    assert site.server.repo("renew") == 0
    os.utime(site.server.current / RELEASE, ns=(when, when))  # apt has kept the one that it refused
    assert site.machine.update().returncode == 0


def test_a_server_with_another_authority_s_certificate_is_refused(site: Site) -> None:
    site.add()
    site.use()
    stranger = CertificateAuthority.create("stranger", "spiffe://stranger")
    (site.gateway.state / "web.pem").write_bytes(certificate(stranger, "web", "localhost", client=False))
    site.gateway.stop()
    site.gateway.start()
    done = site.machine.update()
    assert done.returncode != 0
    assert "certificate" in done.stdout.lower()


def test_apt_never_sees_a_mismatch_while_packages_are_added(site: Site) -> None:
    site.add("1.0")
    site.use()
    packages = [make_deb(site.debs, version=f"1.{number}") for number in range(1, ROUNDS + 1)]

    def add_all() -> list[int]:
        return [add(site.server.program("add", package)) for package in packages]

    def add(command: list[str]) -> int:
        return subprocess.run(
            command, env=python_path(), stdout=subprocess.DEVNULL, timeout=120, check=False
        ).returncode

    reads = 0
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(add_all)
        while not adding.done():
            updated = site.machine.update()
            assert updated.returncode == 0, updated.stdout
            fetched = site.machine.run("install", "-y", "--download-only", "clusterai-agent")
            assert fetched.returncode == 0, fetched.stdout
            reads += 1
    assert adding.result() == [0] * ROUNDS
    assert reads >= 2
    assert site.machine.update().returncode == 0
    assert site.machine.install("clusterai-agent").returncode == 0
    assert site.machine.version("clusterai-agent") == f"1.{ROUNDS}"


def test_who_has_read_an_earlier_release_still_gets_its_packages(site: Site) -> None:
    site.add("1.0")
    site.use()
    assert site.machine.update().returncode == 0
    site.server.configure("keep_versions = 1")
    site.add("1.1")
    assert site.server.published() == ["clusterai-agent 1.1"]
    assert site.machine.install("clusterai-agent").returncode == 0
    assert site.machine.version("clusterai-agent") == "1.0"


def test_releases_that_nobody_reads_any_more_go(site: Site) -> None:
    for number in range(6):
        site.add(f"1.{number}")
        listed = site.server.current / "packages.json"
        told = json.loads(listed.read_text())
        listed.write_text(json.dumps({**told, "published_unix_seconds": told["published_unix_seconds"] - 4000}))
    assert len(list((site.server.repository / "releases").iterdir())) == 4


def test_a_termux_package_is_listed_and_installs_below_its_prefix(site: Site, tmp_path: Path) -> None:
    site.add("2.0", prefix=TERMUX)
    site.add("1.0")
    phone = PrivateApt(tmp_path / "phone", PREFIX, "aarch64")
    site.use(phone, "termux")
    done = phone.update()
    assert done.returncode == 0, done.stdout
    assert "W:" not in done.stdout
    done = phone.install("clusterai-agent")
    assert done.returncode == 0, done.stdout
    assert phone.version("clusterai-agent") == "2.0"
    assert (phone.root / TERMUX / "share/clusterai-agent/version").read_text() == "2.0"


def test_apt_has_nothing_to_complain_of(site: Site) -> None:
    site.add()
    site.use()
    done = site.machine.update()
    assert done.returncode == 0
    assert not [line for line in done.stdout.splitlines() if line.startswith(("W:", "N:", "E:"))]


def test_the_gateway_serves_the_current_release_and_nothing_beside_it(site: Site) -> None:
    assert site.get("/repo/setup.sh")[0] == 404
    site.add()
    assert site.get("/repo/setup.sh") == (200, (site.server.current / "setup.sh").read_bytes())
    for path in ("/repo/../state/web.pem", "/repo/%2e%2e/.lock", "/repo/..%2f..%2fstate/web.pem", "/repo/../.lock",
                 "/repo/", "/repo/debian/", "/repo/../releases/000001/setup.sh"):  # fmt: skip
        assert site.get(path)[0] in (400, 403, 404, 503), path


def test_packages_travel_as_they_are(site: Site) -> None:
    package = site.add()
    served = next((site.server.current / "debian/pool").rglob("*.deb")).relative_to(site.server.current)
    assert site.get(f"/repo/{served}") == (200, package.read_bytes())


async def repository_check(site: Site) -> CheckResult:
    """Return what the daemon's check finds, made from the server's own configuration."""
    config = load_config(site.server.config)
    return await Published(config, lambda: ("localhost",), lambda: True).checks()["repository"]()


async def test_the_doctor_tells_each_way_in_which_a_repository_is_not_well(site: Site) -> None:
    assert (await repository_check(site)).outcome == CHECK_OUTCOME_NOT_APPLICABLE
    package = make_deb(site.debs, version="99")
    await published_by_program(site, package)
    assert (await repository_check(site)).outcome == CHECK_OUTCOME_OK
    key = SigningKey(site.server.state / "repository-key.asc")
    signed = (site.server.current / RELEASE).read_bytes()
    for days, outcome, words in ((-1, CHECK_OUTCOME_FAILED, "expired"), (3, CHECK_OUTCOME_WARNING, "within a week")):
        site.change(RELEASE, key.sign(valid_for(signed, days)))
        found = await repository_check(site)
        assert found.outcome == outcome
        assert words in found.message
        assert "clusteraid repo renew" in found.fix
    for content in (signed.replace(b"Cluster AI", b"Cluster IA", 1), b"", key.sign(b"nothing")):
        site.change(RELEASE, content)
        found = await repository_check(site)
        assert found.outcome == CHECK_OUTCOME_FAILED
        assert "signature" in found.message
    site.change(RELEASE, signed)
    key.path.rename(key.path.with_name("elsewhere"))
    found = await repository_check(site)
    assert found.outcome == CHECK_OUTCOME_FAILED
    assert "backup" in found.fix


def test_two_releases_of_the_same_second_are_told_apart(site: Site) -> None:
    site.add("1.0")
    site.use()
    assert site.machine.update().returncode == 0
    when = (site.server.current / RELEASE).stat().st_mtime_ns
    site.add("1.1")
    os.utime(site.server.current / RELEASE, ns=(when, when))
    assert site.machine.update().returncode == 0
    assert site.machine.install("clusterai-agent").returncode == 0
    assert site.machine.version("clusterai-agent") == "1.1"


def test_the_index_of_an_earlier_release_is_still_there_by_its_hash(site: Site) -> None:
    site.add("1.0")
    index = (site.server.current / "debian/dists/stable/main/binary-all/Packages.xz").read_bytes()
    site.add("1.1")
    digest = hashlib.sha256(index).hexdigest()
    assert site.get(f"/repo/debian/dists/stable/main/binary-all/by-hash/SHA256/{digest}") == (200, index)
