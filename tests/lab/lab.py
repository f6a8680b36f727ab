"""A lab: machines on one network, all gone when its context ends, however it ends."""

import os
import shutil
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import cache
from lab.images import image
from lab.machine import Machine, Place, unmount
from lab.network import Network
from lab.processes import Process

_FIRST_HOST = 10


class Lab:
    """`with Lab({"server": "bookworm", …}) as lab:` boots the machines; `lab["server"]` is one of them."""

    def __init__(self, releases: dict[str, str], *, wheels: Path | None = None) -> None:
        self._releases, self._wheels = releases, wheels
        self._stack = ExitStack()
        self.machines: dict[str, Machine] = {}
        self.repository = Path()

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def __enter__(self) -> Self:
        remove_leftovers()
        with self._stack as stack:
            directory = _new_run()
            stack.callback(shutil.rmtree, directory)
            self.repository = directory / "repository"
            self.repository.mkdir()
            network = Network(directory.name)
            network.create()
            stack.callback(network.remove)
            self._add_machines(directory, network, stack)
            with ThreadPoolExecutor(len(self.machines)) as pool:
                list(pool.map(Machine.boot, self.machines.values()))
            self._stack = stack.pop_all()
        return self

    def _add_machines(self, directory: Path, network: Network, stack: ExitStack) -> None:
        addresses = {name: f"192.0.2.{_FIRST_HOST + number}" for number, name in enumerate(self._releases)}
        hosts = "".join(f"{address} {name}\n" for name, address in addresses.items())
        binds = [(self.repository, "/srv/repository")] + ([(self._wheels, "/srv/wheels")] if self._wheels else [])
        for name, release in self._releases.items():
            place = Place(directory / name, image(release), tuple(binds))
            machine = Machine(name, addresses[name], place, network)
            stack.callback(machine.remove)
            machine.prepare(hosts)
            self.machines[name] = machine

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ThreadPoolExecutor(len(self.machines)) as pool:
            list(pool.map(Machine.stop, self.machines.values()))
        self._stack.close()

    def story(self) -> str:
        """Return what a failing test prints: the end of every machine's journal."""
        return "\n".join(machine.story() for machine in self.machines.values())


def _runs() -> Path:
    return cache.directory() / "runs"


def _new_run() -> Path:
    _runs().mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="cai-", dir=_runs()))
    directory.chmod(0o755)
    (directory / "owner").write_text(str(Process.of(os.getpid())))
    return directory


def leftovers() -> list[Path]:
    """Return the directories of runs whose process is gone."""
    owners = _runs().glob("*/owner")
    return [owner.parent for owner in owners if not Process.parse(owner.read_text()).alive]


def remove_leftovers() -> None:
    """Stop and remove what such runs left."""
    for directory in leftovers():
        _remove_run(directory)


def _remove_run(directory: Path) -> None:
    for recorded in directory.glob("*/process"):
        container = Process.parse(recorded.read_text())
        for process_id in container.children() if container.alive else []:
            Process.of(process_id).send(signal.SIGKILL)
        container.send(signal.SIGKILL)
        container.ended_within(10)
    Network(directory.name).remove()
    for root in directory.glob("*/root"):
        unmount(root)
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)
