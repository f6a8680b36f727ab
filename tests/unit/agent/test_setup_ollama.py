"""`clusterai-agent setup ollama`: what it installs, what it keeps, and that a refusal changes nothing."""

import grp
import hashlib
import io
import os
import platform
import pwd
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clusterai.errors import ClusterAIError
from clusterai_agent import ollama_release
from clusterai_agent.ollama_release import Source, install
from clusterai_agent.setup_ollama import Owner, Places, System, setup_ollama

PROGRAM = b"#!/bin/sh\necho ollama\n"
LIBRARY = os.urandom(300_000)
OTHER_MACHINE = {"x86_64": 183}.get(platform.machine(), 62)


@dataclass
class Machine(System):
    """A machine on which a test may do as root does."""

    done: list[str] = field(default_factory=list)

    def make_user(self) -> None:
        self.done.append("user")

    def own(self, directory: Path, owner: Owner) -> None:
        self.done.append(f"own {directory.name} {owner.user}")

    def start(self, unit: str) -> None:
        self.done.append(f"start {unit}")


@dataclass(frozen=True)
class Release:
    """An archive and its hash."""

    file: Path
    sha256: str

    @classmethod
    def of(cls, file: Path) -> "Release":
        return cls(file, hashlib.sha256(file.read_bytes()).hexdigest())


def entry(
    name: str, data: bytes = b"", *, link: str = "", kind: bytes = tarfile.REGTYPE
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o755
    info.type, info.linkname = kind, link
    return info, data


USUAL = (
    entry("./bin/ollama", PROGRAM),
    entry("./lib/ollama/cuda/libx.so.1.2", LIBRARY),
    entry("./lib/ollama/cuda/libx.so.1", link="libx.so.1.2", kind=tarfile.SYMTYPE),
    entry("./lib/ollama/liby.so", link="cuda/libx.so.1", kind=tarfile.SYMTYPE),
    entry("./lib/ollama/cpu/liby.so", link="../cuda/libx.so.1.2", kind=tarfile.SYMTYPE),
    entry("./README.md", b"not ours"),
)


def archive(file: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Release:
    with tarfile.open(file, "w:gz") as tar:
        for info, data in entries or USUAL:
            tar.addfile(info, io.BytesIO(data))
    return Release.of(file)


def places(root: Path) -> Places:
    (root / "units").mkdir(exist_ok=True)
    return Places(
        (root / "local", root / "usr"), (root / "units",), root / "ollama.list", root / "var/ollama/models",
        (root / "old/models",),
    )  # fmt: skip


async def setup(root: Path, source: object, sha256: str, *, user_id: int = 0) -> Machine:
    machine = Machine()
    await setup_ollama(str(source), sha256, places=places(root), system=machine, user_id=user_id)
    return machine


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


async def test_a_release_is_installed_with_its_user_models_directory_and_unit(tmp_path: Path) -> None:
    release = archive(tmp_path / "a.tgz")
    machine = await setup(tmp_path, release.file, release.sha256.upper())
    local = tmp_path / "local"
    assert (local / "bin/ollama").read_bytes() == PROGRAM
    assert os.access(local / "bin/ollama", os.X_OK)
    for name in ("cuda/libx.so.1", "liby.so", "cpu/liby.so"):
        assert (local / "lib/ollama" / name).read_bytes() == LIBRARY
    assert not [name for name in tree(local) if "README" in name or "setup" in name]
    models = tmp_path / "var/ollama/models"
    assert models.stat().st_mode & 0o777 == 0o755
    unit = (tmp_path / "units/ollama.service").read_text()
    assert f"ExecStart={local}/bin/ollama serve\nUser=ollama\nGroup=ollama\n" in unit
    assert f"Environment=OLLAMA_MODELS={models}\n" in unit
    assert machine.done == ["user", "own ollama ollama", "start ollama.service"]


async def test_again_renews_the_program_where_it_is_and_keeps_the_rest(tmp_path: Path) -> None:
    release = archive(tmp_path / "a.tgz")
    for name in ("usr/bin", "usr/lib/ollama"):
        (tmp_path / name).mkdir(parents=True)
    program, stale = tmp_path / "usr/bin/ollama", tmp_path / "usr/lib/ollama/stale.so"
    program.write_text("old")
    program.chmod(0o755)
    stale.touch()
    places(tmp_path)
    (tmp_path / "units/ollama.service").write_text("mine")
    for _ in range(2):
        await setup(tmp_path, release.file, release.sha256)
    assert program.read_bytes() == PROGRAM
    assert not stale.exists(), "libraries of another release are not mixed in"
    assert not (tmp_path / "local").exists()
    assert (tmp_path / "units/ollama.service").read_text() == "mine"


async def test_models_that_are_there_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = archive(tmp_path / "a.tgz")
    (tmp_path / "old/models/manifests").mkdir(parents=True)
    await setup(tmp_path, release.file, release.sha256)
    assert f"OLLAMA_MODELS={tmp_path}/old/models\n" in (tmp_path / "units/ollama.service").read_text()
    assert "are kept" in capsys.readouterr().out
    assert not (tmp_path / "var").exists()


async def test_a_program_without_a_unit_gets_one_and_nothing_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "local/bin").mkdir(parents=True)
    program = tmp_path / "local/bin/ollama"
    program.write_text("mine")
    program.chmod(0o755)
    await setup(tmp_path, "", "")
    assert program.read_text() == "mine"
    assert f"ExecStart={program} serve" in (tmp_path / "units/ollama.service").read_text()


def zstd(release: Release, file: Path) -> Release:
    plain = file.with_suffix("")
    with tarfile.open(plain, "w") as tar:
        for info, data in USUAL:
            tar.addfile(info, io.BytesIO(data))
    subprocess.run(["zstd", "-q", str(plain), "-o", str(file)], check=True)
    return Release.of(file)


async def test_zstd_archives_are_taken_too(tmp_path: Path) -> None:
    assert shutil.which("zstd"), "tests/packages.txt names it"
    release = zstd(archive(tmp_path / "a.tgz"), tmp_path / "a.tar.zst")
    await setup(tmp_path, release.file, release.sha256)
    assert (tmp_path / "local/lib/ollama/liby.so").read_bytes() == LIBRARY


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve the directory."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = tmp_path / self.path.lstrip("/")
            data = file.read_bytes() if file.is_file() else b""
            self.send_response(200 if data else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if self.path.startswith("/cut") else data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_release_is_fetched_from_a_url(tmp_path: Path, web: str, capsys: pytest.CaptureFixture[str]) -> None:
    release = archive(tmp_path / "a.tgz")
    await setup(tmp_path, f"{web}/a.tgz", release.sha256)
    assert (tmp_path / "local/bin/ollama").read_bytes() == PROGRAM
    assert "fetching\nchecking\nunpacking\n" in capsys.readouterr().out


async def refused(root: Path, source: object, sha256: str, *, user_id: int = 0) -> ClusterAIError:
    """Return why it was refused; nothing may have changed."""
    places(root)
    before = tree(root)
    with pytest.raises(ClusterAIError) as error:
        await setup(root, source, sha256, user_id=user_id)
    left = [name for name in tree(root) if name not in before and name != "local"]
    assert left == []
    return error.value


async def test_another_hash_changes_nothing(tmp_path: Path, web: str) -> None:
    release = archive(tmp_path / "a.tgz")
    for source in (release.file, f"{web}/a.tgz"):
        error = await refused(tmp_path, source, "0" * 64)
        assert f"has the SHA-256 {release.sha256}, not 000" in str(error)
    assert "not a SHA-256 in hex" in str(await refused(tmp_path, release.file, ""))


def test_what_was_checked_is_what_is_unpacked_whoever_owns_the_archive(tmp_path: Path) -> None:
    release, other = archive(tmp_path / "a.tgz"), archive(tmp_path / "b.tgz", entry("bin/ollama", b"#!/bin/sh\nevil\n"))

    def swap(step: str, done: int, size: int) -> None:
        if step == "checking" and done == size:
            release.file.write_bytes(other.file.read_bytes())

    install(Source(str(release.file), release.sha256), tmp_path / "local", swap)
    assert (tmp_path / "local/bin/ollama").read_bytes() == PROGRAM


def test_a_link_among_the_models_gives_nobody_s_file_away(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/x").symlink_to(tmp_path / "not-there")  # followed, this fails
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    System().own(tmp_path / "models", Owner(user, group))


async def test_whoever_is_not_root_is_told_how(tmp_path: Path) -> None:
    release = archive(tmp_path / "a.tgz")
    error = await refused(tmp_path, release.file, release.sha256, user_id=1000)
    assert "sudo clusterai-agent setup ollama" in error.advice


async def test_without_a_release_it_says_where_one_is(tmp_path: Path) -> None:
    error = await refused(tmp_path, "", "")
    assert "no release is named" in str(error)
    assert "--sha256 HASH" in error.advice


@pytest.mark.parametrize("name", ["none.tgz", "cut.tgz"])
async def test_a_download_that_fails_changes_nothing(tmp_path: Path, web: str, name: str) -> None:
    release = archive(tmp_path / "cut.tgz")
    error = await refused(tmp_path, f"{web}/{name}", release.sha256)
    assert "nothing was changed" in error.advice


async def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = archive(tmp_path / "a.tgz")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    error = await refused(tmp_path, release.file, release.sha256)
    assert "GB of free space" in str(error)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("lib/ollama/x", b"x")], "there is no bin/ollama in it"),
        ([entry("../../bin/ollama", PROGRAM)], "there is no bin/ollama in it"),
        ([entry("/bin/ollama", PROGRAM)], "there is no bin/ollama in it"),
        ([entry("bin/ollama", b"\x7fELF" + bytes(14) + OTHER_MACHINE.to_bytes(2, "little"))], "not for this machine"),
        ([entry("lib/ollama/x", link="/etc/passwd", kind=tarfile.SYMTYPE)], "leads out"),
        ([entry("lib/ollama/x", link="../../../x", kind=tarfile.SYMTYPE)], "leads out"),
        ([entry("lib/ollama/x", link="/etc/passwd", kind=tarfile.LNKTYPE)], "leads out"),
        ([entry("bin/ollama", link="/bin/sh", kind=tarfile.SYMTYPE)], "leads out"),
        (
            [
                entry("lib/ollama/s/f", b"x"),
                entry("lib/ollama/a/b/c/d", link="../../../s", kind=tarfile.SYMTYPE),
                entry("lib/ollama/a/b/c/d/e", link="../../../x", kind=tarfile.SYMTYPE),
            ],
            "leads out",
        ),
        ([entry("lib/ollama/x", link="s/../../../x", kind=tarfile.SYMTYPE)], "leads out"),
    ],
)
async def test_an_archive_that_is_no_release_changes_nothing(
    tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], said: str
) -> None:
    release = archive(tmp_path / "a.tgz", *entries)
    assert said in str(await refused(tmp_path, release.file, release.sha256))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x1f\x8b" + bytes(50), b"\x28\xb5\x2f\xfd" + bytes(50)])
async def test_damaged_archives_and_other_files_change_nothing(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.tgz"
    file.write_bytes(data)
    error = await refused(tmp_path, file, Release.of(file).sha256)
    assert error.advice


async def test_half_an_archive_changes_nothing(tmp_path: Path) -> None:
    release = archive(tmp_path / "a.tgz")
    release.file.write_bytes(release.file.read_bytes()[:-100_000])
    assert await refused(tmp_path, release.file, Release.of(release.file).sha256)


async def test_a_failure_at_the_last_step_brings_the_old_libraries_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = archive(tmp_path / "a.tgz")
    (tmp_path / "local/bin/ollama").mkdir(parents=True)  # nothing can be moved over a directory
    (tmp_path / "local/lib/ollama").mkdir(parents=True)
    (tmp_path / "local/lib/ollama/old.so").touch()
    with pytest.raises(ollama_release.SetupFailed):
        ollama_release.install(
            ollama_release.Source(str(release.file), release.sha256), tmp_path / "local", lambda *_: None
        )
    assert (tmp_path / "local/lib/ollama/old.so").exists()


async def test_an_architecture_without_releases_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = archive(tmp_path / "a.tgz")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "no release for the architecture riscv64" in str(await refused(tmp_path, release.file, release.sha256))


async def test_a_program_of_a_package_is_left_to_the_package(tmp_path: Path) -> None:
    release = archive(tmp_path / "a.tgz")
    (tmp_path / "ollama.list").touch()
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/ollama").write_text("theirs")
    (tmp_path / "usr/bin/ollama").chmod(0o755)
    error = await refused(tmp_path, release.file, release.sha256)
    assert "belongs to the package ollama" in str(error)
    assert (tmp_path / "usr/bin/ollama").read_text() == "theirs"
