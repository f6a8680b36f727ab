"""The line that a phone's owner pastes: it installs what is signed, joins and switches on, or changes nothing."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from clusteraid.repository.key import SigningKey
from support.clocks import set_clock, with_own_clock
from support.ctl import Ctl
from support.debs import Server, make_deb
from support.killable import KillableDaemon, killable_daemon
from support.phone_shop import NO_TOKEN, Shop
from support.termux import PREFIX, Phone

RELEASE = "termux/dists/stable/InRelease"
OURS = {"clusterai.sources", "clusterai.asc", "clusterai-ca.pem", "80clusterai"}


def configured(phone: Phone) -> set[str]:
    """Return the files that the script writes for apt."""
    return {path.name for path in phone.at("etc/apt").rglob("*clusterai*")}


@contextmanager
def changed(server: Server, path: str, content: bytes) -> Iterator[None]:
    """Serve other bytes under a path, as somebody on the server or the wire could."""
    file = server.current / path
    kept = file.read_bytes()
    file.unlink()  # it may be a link to what another release has
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(kept)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[KillableDaemon]:
    (tmp_path / "server").mkdir()
    async with killable_daemon(tmp_path / "server") as daemon:
        yield daemon


async def test_a_pasted_line_makes_the_phone_a_node(
    shop: Shop, phone: Phone, daemon: KillableDaemon, tmp_path: Path
) -> None:
    line = shop.line(str(await daemon.token()), await daemon.enrollment_address())
    done = await asyncio.to_thread(phone.ask, line, "y\n")
    assert done.returncode == 0, done.stdout
    assert f"get packages from the Cluster AI server at {shop.url}" in done.stdout
    assert "This phone is a node of the cluster." in done.stdout
    assert configured(phone) == OURS
    assert not phone.at("var/service/clusterai-agent/down").exists()
    ctl = Ctl(tmp_path, daemon.socket)

    async with asyncio.timeout(90):
        while not any(
            node["facts"]["machine_class"] == "phone" and node["state"] in ("ready", "resting", "incompatible")
            for node in (await ctl("node", "list", "--json")).data["nodes"]
        ):
            await asyncio.sleep(0.2)
    again = await asyncio.to_thread(phone.ask, line, "y\n")
    assert again.returncode == 0, again.stdout
    assert "has joined already" in again.stdout


def test_the_line_asks_first_and_changes_nothing_without_a_yes(shop: Shop, phone: Phone) -> None:
    done = phone.ask(shop.line(), "n\n")
    assert done.returncode == 1
    assert "pkg install clusterai-agent" in done.stdout
    assert "Nothing was changed." in done.stdout
    without_a_terminal = phone.shell(shop.line())
    assert without_a_terminal.returncode == 1
    assert "nobody answered" in without_a_terminal.stderr
    assert configured(phone) == set()
    assert phone.version("clusterai-agent") == ""


def test_a_line_that_was_tampered_with_runs_nothing(shop: Shop, phone: Phone) -> None:
    script = (shop.server.current / "setup.sh").read_bytes()
    line = shop.line()
    with changed(shop.server, "setup.sh", script.replace(b"set -eu\n", b"set -eu\necho it ran\n", 1)):
        done = phone.ask(line, "y\n")
    assert done.returncode != 0
    assert "FAILED" in done.stdout
    assert "it ran" not in done.stdout
    for broken in (line.replace(NO_TOKEN, "cai2.x"), line.replace(f"echo {NO_TOKEN}", "echo")):
        done = phone.ask(broken, "y\n")
        assert done.returncode == 1
        assert "no join token" in done.stdout
    assert configured(phone) == set()


def test_a_package_that_was_tampered_with_is_not_installed(shop: Shop, phone: Phone, tmp_path: Path) -> None:
    served = next((shop.server.current / "termux/pool").rglob("clusterai-agent_*.deb"))
    size = served.stat().st_size
    (tmp_path / "other").mkdir()
    other = make_deb(tmp_path / "other", prefix=PREFIX.lstrip("/")).read_bytes()
    with changed(shop.server, str(served.relative_to(shop.server.current)), other[:size].ljust(size, b"x")):
        done = phone.ask(shop.line(), "y\n")
    assert done.returncode == 1
    assert "Hash Sum mismatch" in done.stdout
    assert "clusterai-agent could not be installed" in done.stdout
    assert phone.version("clusterai-agent") == ""


def test_a_repository_that_is_wrongly_signed_or_has_expired_leaves_the_phone_as_it_was(
    shop: Shop, phone: Phone, tmp_path: Path
) -> None:
    signed = (shop.server.current / RELEASE).read_bytes()
    text = signed.partition(b"\n\n")[2].partition(b"-----BEGIN PGP SIGNATURE")[0]
    until = format_datetime(datetime.now(UTC) - timedelta(days=1)).encode()
    expired = re.sub(rb"(?m)^Valid-Until: .*$", b"Valid-Until: " + until, text)
    (tmp_path / "k").mkdir()
    stranger = SigningKey(tmp_path / "k/key.asc")
    stranger.make()
    key = SigningKey(shop.server.state / "repository-key.asc")
    for content in (signed.replace(b"Cluster AI", b"Cluster IA", 1), stranger.sign(text), key.sign(expired), text):
        with changed(shop.server, RELEASE, content):
            done = phone.ask(shop.line(), "y\n")
        assert done.returncode == 1
        assert f"apt cannot use {shop.url}/termux" in done.stdout
        assert configured(phone) == set()


def test_a_server_without_packages_for_phones_is_told(phone: Phone, shop: Shop) -> None:
    assert shop.server.repo("remove", "clusterai-agent") == 0
    try:
        done = phone.ask(shop.line(), "y\n")
    finally:
        deb = next((shop.server.current / "termux/pool").rglob("clusterai-agent_*.deb"))
        copy = phone.directory / deb.name
        shutil.copy(deb, copy)
        assert shop.server.repo("add", copy) == 0
    assert done.returncode == 1
    assert "the server has no packages for phones" in done.stdout
    assert "clusteraid repo add" in done.stdout


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"TERMUX_VERSION": "googleplay.2026.02.11"}, "from F-Droid or from its GitHub"),
        ({"TERMUX_APK_RELEASE": "GOOGLE_PLAY_STORE"}, "from F-Droid or from its GitHub"),
        ({"TERMUX_APP_PACKAGE_MANAGER": "pacman"}, "this Termux uses pacman"),
        ({"as_root": True}, "this is root"),
    ],
)
def test_what_cannot_work_is_refused_with_words(
    shop: Shop, phone: Phone, variables: dict[str, str | bool], words: str
) -> None:
    done = phone.ask(shop.line(), "y\n", **variables)
    assert done.returncode == 1
    assert words in done.stdout
    assert configured(phone) == set()


@pytest.mark.parametrize("shift", ["-1500d", "+1500d"])
def test_a_phone_whose_clock_is_years_off_is_told_so(shop: Shop, tmp_path: Path, shift: str) -> None:
    with Phone.on(tmp_path, **with_own_clock()) as phone:
        set_clock(phone, shift)
        done = phone.ask(shop.line(), "y\n")
        assert done.returncode == 1
        clocks = r"this machine's clock says 20\d\d-.* UTC, the server's 20\d\d-.* UTC"
        assert re.search(clocks, done.stdout), done.stdout
        assert "switch *Set time automatically* on" in done.stdout
        assert configured(phone) == set()


def test_a_phone_without_room_is_told_how_much_it_takes(shop: Shop, tmp_path: Path) -> None:
    with Phone.on(tmp_path, storage_megabytes=100) as phone:
        done = phone.ask(shop.line(), "y\n")
        assert done.returncode == 1
        assert re.search(r"there are \d\d MB free, and it takes 600", done.stdout), done.stdout
        assert "under Storage" in done.stdout
        assert phone.run("ls", f"{PREFIX}/etc/apt/sources.list.d").stdout == ""
