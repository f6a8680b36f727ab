"""Open WebUI for tests: the shipped lock installed for real, once on a machine, run with the settings of its unit."""

import asyncio
import shlex
from pathlib import Path

from clusterai.environment import TELL_VERSIONS, available_minors, require_python
from clusteraid.webui.administrator import Administrator
from clusteraid.webui.settings import WebuiSettings
from clusteraid.webui.setup import DIRECTORY, MINORS, shipped_lock
from clusteraid.webui.wait import SOCKET, answers
from support.children import Child
from support.pool_environment import environment
from support.tree import ROOT

_UNIT = ROOT / "systemd/open-webui.service"
_START_SECONDS = 240.0
ADMINISTRATOR = Administrator("ann@example.com", "a long \"sentence\" of 'hers' for $5 \\ `more`")


def webui_environment(minor: str = "") -> Path:
    """Return the directory of a finished environment; the first call builds it: minutes, 1.6 GB.

    `minor`: of its Python; otherwise the best that this machine has.
    """
    minor = minor or next((minor for minor in MINORS if minor in available_minors()), MINORS[0])
    return asyncio.run(environment("open-webui", shipped_lock(), require_python(minor), minor, TELL_VERSIONS))


class OpenWebui(Child):
    """Open WebUI with its data in a directory of its own."""

    def __init__(self, directory: Path, environment: Path, socket: Path, *, key: str, gateway: str) -> None:
        self.socket, self.data = socket, directory / "data"
        self.data.mkdir(parents=True)
        (directory / "venv").symlink_to(environment)
        WebuiSettings(key=key).save(directory / "settings.env", gateway)
        here = {str(DIRECTORY): str(directory), str(SOCKET): str(socket)}
        unit = _UNIT.read_text()
        for shipped, own in here.items():
            assert shipped in unit, f"the unit says nothing of {shipped}"
            unit = unit.replace(shipped, own)
        self._unit = unit
        super().__init__(shlex.split(_values(unit, "ExecStart")[0]), directory / "log", directory=self.data)

    def start(self) -> None:
        """Start it and wait until it says that it is well. At its first start the administrator's account is made."""
        with ADMINISTRATOR.told(self.data.parent / "administrator.env"):
            self._variables = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **_variables(self._unit)}
            super().start()
            self.wait_until(lambda: answers(self.socket), _START_SECONDS)


def _values(unit: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{name}=")]


def _variables(unit: str) -> dict[str, str]:
    """Return the variables of a unit and of its environment files, as systemd reads them."""
    pairs = [pair for line in _values(unit, "Environment") for pair in shlex.split(line)]
    for name in _values(unit, "EnvironmentFile"):
        pairs += shlex.split(Path(name.removeprefix("-")).read_text(), comments=True)
    return dict(pair.split("=", 1) for pair in pairs)
