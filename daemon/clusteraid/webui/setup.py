"""`clusteraid setup open-webui`: installs a release, gives it settings and a key, starts it. Run again, it upgrades."""

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc

from clusterai.environment import (
    TELL_VERSIONS,
    Built,
    EnvironmentKey,
    IndexConfig,
    NoSuchPython,
    Progress,
    available_minors,
    build,
    remove_others,
    require_python,
)
from clusterai.errors import ClusterAIError, Status
from clusterai.files import point_link
from clusterai.rpc import from_rpc_error, local_channel
from clusterai.units import UnitFailed, Units
from clusterai.v1.key_pb2 import CreateKeyRequest, ListKeysRequest
from clusterai.v1.key_pb2_grpc import KeyServiceStub
from clusteraid.machine_units import WEBUI_UNIT
from clusteraid.webui.administrator import Administrator, AdministratorNeeded
from clusteraid.webui.settings import WebuiSettings
from clusteraid.webui.wait import SOCKET, waits_for_its_first_user

log = logging.getLogger(__name__)
DIRECTORY = Path("/var/lib/open-webui")
MINORS = ("3.12", "3.11")  # that it runs on, the best first
KEY_NAME = "open-webui"
_NEEDED_BYTES = 3 << 30
_CALL_SECONDS = 30.0
_PROOF = f"import importlib.metadata as m; m.version('open-webui'); import uvicorn, typer\n{TELL_VERSIONS}"


class NotEnoughSpace(ClusterAIError):
    code, status = "not-enough-space", Status.EXHAUSTED
    message = "{directory} has {free:.1f} GB free; the installation takes up to {needed:.1f} GB"
    hint = "make room (`df -h {directory}`) and run it again"


class NoPythonForWebui(ClusterAIError):
    code, status = "no-python-for-open-webui", Status.FAILED
    message = "Open WebUI runs on Python {wanted}; this machine has {found}"
    hint = (
        "`sudo env UV_PYTHON_INSTALL_DIR=/usr/local/share/uv/python uv python install {best}` brings one; "
        "then run it again"
    )


class WebuiDoesNotStart(ClusterAIError):
    code, status = "open-webui-does-not-start", Status.FAILED
    message = "Open WebUI was installed and does not start ({reason}){kept}"
    hint = "see `journalctl -u open-webui`; run it again when the cause is gone"


@dataclass(frozen=True)
class SetupOptions:
    """Where things are. `index` says where packages come from."""

    socket: Path
    gateway_port: int
    index: IndexConfig
    directory: Path = DIRECTORY
    lock_text: str = ""  # another lock than the shipped one
    needed_bytes: int = _NEEDED_BYTES
    minors: tuple[str, ...] = MINORS
    administrator: Administrator | None = None  # its first account; needed where it has none
    webui_socket: Path = SOCKET

    @property
    def environments(self) -> Path:
        """Where each release lies in a directory of its own."""
        return self.directory / "env"

    @property
    def link(self) -> Path:
        """What the unit starts: a link to the release in use."""
        return self.directory / "venv"

    @property
    def data(self) -> Path:
        """What its users have; the only directory that it can write."""
        return self.directory / "data"

    @property
    def settings(self) -> Path:
        """The settings' file."""
        return self.directory / "settings.env"

    @property
    def has_started_before(self) -> bool:
        """Whether it has a database, and somebody who signed up unless that was broken off."""
        return (self.data / "webui.db").exists()


def shipped_lock() -> str:
    """Return the lock that this version ships."""
    return files("clusteraid.webui").joinpath("open-webui.lock").read_text(encoding="utf-8")


async def set_up(options: SetupOptions, units: Units, progress: Progress) -> str:
    """Install, configure and start Open WebUI; return its version. What ran before goes on until the new one is built.

    Raises:
        AdministratorNeeded, NoPythonForWebui, NotEnoughSpace, EnvironmentBuildFailed, Unreachable: nothing was changed.
        WebuiDoesNotStart: the release of before is in use again, if there was one.
    """
    if options.administrator is None and not options.has_started_before:
        raise AdministratorNeeded
    former, gateway = WebuiSettings.load(options.settings), f"http://127.0.0.1:{options.gateway_port}"
    known = await _is_known(options, former)
    built = await _built(options, progress)
    if not known:
        settings = replace(former, key=await _new_key(options))
        settings.hand_over(options.data, gateway)
        settings.save(options.settings, gateway)
    before = _target(options.link)
    point_link(options.link, built.directory)
    progress(1.0, "starting it")
    who = options.administrator
    with who.told(options.directory / "administrator.env") if who else contextlib.nullcontext():
        try:
            await units.restart(WEBUI_UNIT)
        except UnitFailed as error:
            await _go_back(options, units, before, error)
    if await asyncio.to_thread(waits_for_its_first_user, options.webui_socket):
        await units.stop(WEBUI_UNIT)
        raise AdministratorNeeded
    await asyncio.to_thread(remove_others, options.environments, {built.directory.name})
    return built.versions.get("open-webui", "?")


async def _built(options: SetupOptions, progress: Progress) -> Built:
    """Build the release where it will live; its directory's group, Open WebUI's, can read it."""
    minor = next((minor for minor in options.minors if minor in available_minors()), "")
    if not minor:
        found = ", ".join(available_minors()) or "none"
        raise NoPythonForWebui(wanted=" or ".join(options.minors), found=found, best=options.minors[0])
    lock_text = options.lock_text or shipped_lock()
    directory = options.environments / EnvironmentKey(minor, lock_text).hash
    free = shutil.disk_usage(options.directory).free
    if not directory.exists() and free < options.needed_bytes:
        needed = options.needed_bytes / 1e9
        raise NotEnoughSpace(directory=options.directory, free=free / 1e9, needed=needed)
    try:
        python = require_python(minor)
    except NoSuchPython as error:
        raise NoPythonForWebui(wanted=minor, found="another one now", best=minor) from error
    return await build(directory, lock_text, python, index=options.index, progress=progress, proof=_PROOF)


async def _is_known(options: SetupOptions, settings: WebuiSettings) -> bool:
    """Whether the gateway takes the key of before."""
    async with _keys(options) as service:
        keys = (await service.ListKeys(ListKeysRequest(), timeout=_CALL_SECONDS)).keys
    return any(key.key_id == settings.key_id and not key.revoked for key in keys)


async def _new_key(options: SetupOptions) -> str:
    async with _keys(options) as service:
        return str((await service.CreateKey(CreateKeyRequest(name=KEY_NAME), timeout=_CALL_SECONDS)).secret)


@contextlib.asynccontextmanager
async def _keys(options: SetupOptions) -> AsyncIterator[Any]:
    """The daemon's keys; a failed call becomes this project's error."""
    async with local_channel(options.socket) as channel:
        stub: Any = KeyServiceStub
        try:
            yield stub(channel)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, os.fspath(options.socket)) from error


async def _go_back(options: SetupOptions, units: Units, before: Path | None, error: UnitFailed) -> None:
    kept = ""
    if before is not None and before.is_dir() and before != _target(options.link):
        point_link(options.link, before)
        with contextlib.suppress(ClusterAIError):  # it is said that the new one does not start; doctor sees the rest
            await units.restart(WEBUI_UNIT)
        kept = "; the version of before is in use again"
    raise WebuiDoesNotStart(reason=error.result, kept=kept) from error


def _target(link: Path) -> Path | None:
    return link.resolve() if link.is_symlink() else None
