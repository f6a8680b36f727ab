"""Setting up Open WebUI: small wheels stand for its packages; pip, the daemon and its keys are real."""

import asyncio
import hashlib
import http.server
import json
import re
import shlex
import socketserver
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from clusterai.environment import IndexConfig
from clusterai.errors import ClusterAIError
from clusterai.pip_output import EnvironmentBuildFailed
from clusterai.units import Units, UnitsConfig, open_units
from clusteraid.webui import wait
from clusteraid.webui.administrator import Administrator, AdministratorNeeded, BadAdministrator
from clusteraid.webui.settings import WebuiSettings
from clusteraid.webui.setup import (
    NoPythonForWebui,
    NotEnoughSpace,
    SetupOptions,
    WebuiDoesNotStart,
    set_up,
    shipped_lock,
)
from support.fake_systemd import BusDaemon, FakeSystemd
from support.killable import KillableDaemon, killable_daemon
from support.tree import ROOT, python_path
from support.wheels import make_wheels

UNIT = "open-webui.service"
PASSWORD = "a long \"sentence\" of 'hers' for $5 \\ `more`"
MODULES = {name: (f"{name.replace('-', '_')}/__init__.py",) for name in ("open-webui", "uvicorn", "typer")}


@pytest.fixture
def systemd(systemd: FakeSystemd) -> FakeSystemd:
    systemd.add(UNIT)
    return systemd


@pytest.fixture
async def units(bus: BusDaemon, systemd: FakeSystemd) -> AsyncIterator[Units]:
    async with open_units(UnitsConfig(bus_address=bus.address)) as opened:
        yield opened


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[KillableDaemon]:
    (tmp_path / "gateway").mkdir()
    async with killable_daemon(tmp_path, settings=f'[gateway]\ndirectory = "{tmp_path}/gateway"\n') as running:
        yield running


@pytest.fixture
def options(tmp_path: Path, daemon: KillableDaemon) -> SetupOptions:
    wheels = make_wheels(tmp_path / "wheels", modules=MODULES)
    home = tmp_path / "open-webui"
    (home / "data").mkdir(parents=True)
    home.chmod(0o2750)
    index = IndexConfig(find_links=wheels.path, offline=True)
    return SetupOptions(
        daemon.socket, 11434, index, home, wheels.lock_text, needed_bytes=1,
        administrator=Administrator("ann@example.com", PASSWORD), webui_socket=tmp_path / "http.sock",
    )


def told(options: SetupOptions) -> dict[str, str]:
    """What the settings' file says, as systemd reads it."""
    return dict(re.findall(r"^(\w+)='(.*)'$", options.settings.read_text(), re.MULTILINE))


def quiet(_: float, __: str) -> None:
    """Hear the progress, and say nothing."""


def keys(daemon: KillableDaemon) -> set[str]:
    return set(json.loads((daemon.directory / "gateway/keys.json").read_text())["keys"])


async def test_it_is_installed_given_a_key_that_works_and_started(
    options: SetupOptions, units: Units, systemd: FakeSystemd, daemon: KillableDaemon
) -> None:
    heard: list[tuple[float, str]] = []
    assert await set_up(options, units, lambda ratio, text: heard.append((ratio, text))) == "1.0"
    settings = told(options)
    key = json.loads(settings["OLLAMA_API_CONFIGS"])["0"]["key"]
    assert settings["OLLAMA_BASE_URL"] == "http://127.0.0.1:11434"
    assert settings["RAG_OLLAMA_API_KEY"] == key
    assert len(settings["WEBUI_SECRET_KEY"]) >= 32
    imported = options.data / "config.json"
    assert json.loads(imported.read_text())["ollama.api_configs"] == {"0": {"enable": True, "key": key}}
    assert imported.stat().st_uid == options.data.stat().st_uid
    assert hashlib.sha256(key.encode()).hexdigest() in keys(daemon)
    assert stat.S_IMODE(options.settings.stat().st_mode) == 0o640
    assert options.settings.stat().st_gid == options.directory.stat().st_gid
    assert (options.link / "bin/python").exists()
    assert (options.link.resolve() / "lib").stat().st_mode & 0o070 == 0o050, "its group reads the program"
    assert systemd.units[UNIT].properties["ActiveState"].value == "active"
    assert [ratio for ratio, _ in heard] == sorted(ratio for ratio, _ in heard)
    assert heard[-1] == (1.0, "starting it")
    assert key not in repr(WebuiSettings.load(options.settings))


async def test_a_second_time_keeps_what_there_is_and_makes_a_key_only_when_it_is_needed(
    options: SetupOptions, units: Units, daemon: KillableDaemon
) -> None:
    await set_up(options, units, quiet)
    before, known = told(options), keys(daemon)
    (options.data / "config.json").unlink()  # it was taken over at the start
    await set_up(options, units, quiet)
    assert told(options) == before, "nobody is signed out"
    assert not (options.data / "config.json").exists(), "what its administrator set stays"
    assert keys(daemon) == known
    lost = options.settings.read_text().replace(WebuiSettings.load(options.settings).key_id, "aaaaaaaa")
    options.settings.write_text(lost)
    await set_up(options, units, quiet)
    assert told(options)["WEBUI_SECRET_KEY"] == before["WEBUI_SECRET_KEY"]
    key = told(options)["RAG_OLLAMA_API_KEY"]
    assert hashlib.sha256(key.encode()).hexdigest() in keys(daemon) - known
    assert key in (options.data / "config.json").read_text(), "its database has the old one"


async def test_a_release_takes_the_place_of_the_old_one_only_when_it_starts(
    options: SetupOptions, units: Units, systemd: FakeSystemd
) -> None:
    await set_up(options, units, quiet)
    old, settings = options.link.resolve(), options.settings.read_text()
    pin = f"missing==1.0 --hash=sha256:{'0' * 64}\n"
    with pytest.raises(EnvironmentBuildFailed, match="missing"):
        await set_up(replace(options, lock_text=options.lock_text + pin), units, quiet)
    assert (options.link.resolve(), options.settings.read_text()) == (old, settings)
    newer = replace(options, lock_text=f"{options.lock_text}# another\n")
    systemd.units[UNIT].job_result = "failed"
    with pytest.raises(WebuiDoesNotStart, match="version of before is in use again") as refused:
        await set_up(newer, units, quiet)
    assert "journalctl -u open-webui" in refused.value.advice
    assert options.link.resolve() == old
    systemd.units[UNIT].job_result = "done"
    await set_up(newer, units, quiet)
    assert options.link.resolve() != old
    assert [path.name for path in options.environments.iterdir()] == [options.link.resolve().name]


async def test_what_is_missing_is_said_first(options: SetupOptions, units: Units, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughSpace, match="GB free"):
        await set_up(replace(options, needed_bytes=1 << 60), units, quiet)
    with pytest.raises(ClusterAIError, match="cannot reach"):
        await set_up(replace(options, socket=tmp_path / "none.sock"), units, quiet)
    with pytest.raises(NoPythonForWebui) as refused:
        await set_up(replace(options, minors=("3.2",)), units, quiet)
    assert "uv python install 3.2" in refused.value.advice
    assert not options.link.exists()




async def test_without_an_administrator_nothing_begins(
    options: SetupOptions, units: Units, systemd: FakeSystemd
) -> None:
    nobody = replace(options, administrator=None)
    with pytest.raises(AdministratorNeeded) as refused:
        await set_up(nobody, units, quiet)
    assert "--admin MAIL" in refused.value.advice
    assert not options.environments.exists()
    await set_up(options, units, quiet)
    assert [path.name for path in options.directory.glob("administrator*")] == []
    (options.data / "webui.db").touch()
    await set_up(nobody, units, quiet)
    with answering(options.webui_socket), pytest.raises(AdministratorNeeded):  # a database, and nobody in it
        await set_up(nobody, units, quiet)
    assert systemd.units[UNIT].properties["ActiveState"].value == "inactive"


def test_the_administrator_is_told_as_systemd_reads_it_and_only_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "administrator.env"
    with Administrator("ann@example.com", PASSWORD).told(file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert shlex.split(file.read_text()) == [
            "WEBUI_ADMIN_EMAIL=ann@example.com", "WEBUI_ADMIN_NAME=ann", f"WEBUI_ADMIN_PASSWORD={PASSWORD}",
        ]
    assert not file.exists()


@pytest.mark.parametrize(("mail", "password"), [
    ("ann", PASSWORD), ("ann@example.com\nX=1", PASSWORD), ("a'b@example.com", PASSWORD), ("", PASSWORD),
    ("ann@example.com", "short"), ("ann@example.com", "ä" * 37), ("ann@example.com", "a long\nWEBUI_X=1"),
])
def test_who_cannot_be_an_administrator_is_refused(mail: str, password: str) -> None:
    with pytest.raises(BadAdministrator) as refused:
        Administrator(mail, password)
    assert PASSWORD not in str(refused.value)


def test_the_shipped_lock_pins_a_release_without_gigabytes_of_cuda() -> None:
    lock = shipped_lock()
    assert re.search(r"^open-webui==\d", lock, re.MULTILINE)
    assert not re.search(r"^(torch|nvidia|triton)", lock, re.MULTILINE)
    pins = [line for line in re.split(r"\n(?=\S)", lock) if re.match(r"[a-z0-9]", line)]
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = {"/health": b"{}", "/api/config": b'{"onboarding": true}'}.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def answering(socket: Path) -> Iterator[None]:
    """Answer there as an Open WebUI without accounts does."""
    with socketserver.UnixStreamServer(str(socket), _Health) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            socket.unlink()


def test_the_start_is_over_when_it_answers_and_fails_when_it_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(tmp_path / "http.sock"):
        assert wait.main(60, tmp_path / "http.sock") == 0
    assert wait.main(0.2, tmp_path / "http.sock") == 1
    assert "does not answer" in capsys.readouterr().err


async def run_as_nobody(*arguments: str) -> tuple[int, str]:
    """Run `clusteraid` as a user without any rights; return its exit code and what it said."""
    command = ("unshare", "--user", sys.executable, "-P", "-m", "clusteraid", *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, env=python_path(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, said.decode()


async def test_the_command_says_what_it_takes() -> None:
    code, said = await run_as_nobody("setup", "open-webui")
    assert (code, said) == (
        4, "clusteraid setup: installing for the whole machine takes root's rights\n  run it with sudo\n"
    )
    code, said = await run_as_nobody("setup", "open-webui", "--help")
    assert code == 0
    assert "--wheels DIR" in said
    assert "--admin MAIL" in said
    assert (await run_as_nobody("setup", "nonsense"))[0] == 2
