"""One Debian machine with systemd as PID 1."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.commands import PATH, CommandFailed, finished, run
from lab.network import GATEWAY, Network
from lab.processes import Process

_BOOT_SECONDS, _STOP_SECONDS, _START_AGAIN = 180.0, 10.0, 5


@dataclass(frozen=True)
class Place:
    """Where a machine lives: its directory of this run, the image below it, and what is bound in, read-only."""

    directory: Path
    image: Path
    binds: tuple[tuple[Path, str], ...] = ()

    @property
    def root(self) -> Path:
        """Its root file system, an overlay over the image."""
        return self.directory / "root"


class Machine:
    """A machine by its name and address; `boot` before all else."""

    def __init__(self, name: str, address: str, place: Place, network: Network) -> None:
        self.name, self.address = name, address
        self._place, self._network = place, network
        self._container: Process | None = None
        self._first: Process | None = None  # PID 1 inside

    def prepare(self, hosts: str) -> None:
        """Lay its tree over the image and write what makes it this machine."""
        place = self._place
        for part in ("upper", "work", "root"):
            (place.directory / part).mkdir(parents=True)
        layers = f"lowerdir={place.image},upperdir={place.directory / 'upper'},workdir={place.directory / 'work'}"
        run(["mount", "-t", "overlay", "-o", layers, "overlay", place.root])
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{hosts}")
        # The name sorts before 80-container-host0.network, which would ask for DHCP.
        link = f"[Match]\nName=host0\n[Network]\nAddress={self.address}/24\nGateway={GATEWAY}\n"
        self.write("/etc/systemd/network/10-lab.network", link)

    def boot(self) -> None:
        """Start it, and wait until systemd has done its jobs."""
        binds = [f"--bind-ro={source}:{target}" for source, target in self._place.binds]
        command = [
            *("nsenter", f"--net=/run/netns/{self._network.name}"),
            *("systemd-nspawn", "--quiet", "-D", str(self._place.root), "--boot", f"--machine={self.name}"),
            *("--register=no", "--keep-unit", "--network-bridge=br0", "--console=pipe", *binds),
        ]
        # By a shell that ends at once: a machine outlives the test that boots it, so it is no child of the tests.
        log = self._place.directory / "console.log"
        start = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'
        environment = {"PATH": PATH, "LC_ALL": "C.UTF-8"}
        shell = ["sh", "-c", start, "sh", str(log), *command]
        told = subprocess.run(shell, stdout=subprocess.PIPE, check=True, start_new_session=True, env=environment)
        self._container = Process.of(int(told.stdout))
        (self._place.directory / "process").write_text(str(self._container))
        self._wait_booted()

    def _wait_booted(self) -> None:
        deadline = time.monotonic() + _BOOT_SECONDS
        state = "its PID 1 did not start"
        while time.monotonic() < deadline:
            self._first = self._find_first()
            if self._first is not None:
                state = run(self._inside("systemctl", "is-system-running"), check=False).strip()
                if state in ("running", "degraded"):
                    self._start_again_what_debian_lost()
                    return
            time.sleep(0.1)
        raise CommandFailed(f"{self.name} did not boot: {state}\n{self.console()}")

    def _start_again_what_debian_lost(self) -> None:
        """Start again units that failed at boot and are not ours: on a busy machine a container loses one at times."""
        for _ in range(_START_AGAIN):
            lost = [unit for unit in self.failed_units() if not unit.startswith("clusterai")]
            if not lost:
                return
            self.run(["systemctl", "start", *lost], check=False)

    def _find_first(self) -> Process | None:
        assert self._container is not None
        for process_id in self._container.children():
            comm = Path(f"/proc/{process_id}/comm")
            if comm.exists() and comm.read_text().strip() == "systemd":
                return Process.of(process_id)
        return None

    @property
    def is_up(self) -> bool:
        """Whether it is booted."""
        return self._first is not None and self._first.alive

    def stop(self) -> None:
        """Shut it down in good order; its tree stays."""
        if self._container is None:
            return
        # A second SIGTERM ends a machine that reached its halt target and hangs there.
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            self._container.send(number)
            if self._container.ended_within(_STOP_SECONDS):
                break
        self._container = self._first = None

    def cut_power(self) -> None:
        """Kill everything at once; its tree stays."""
        assert self._container is not None
        if self._first is not None:
            self._first.send(signal.SIGKILL)
        self._container.send(signal.SIGKILL)
        self._container.ended_within(_STOP_SECONDS)
        self._container = self._first = None

    def reboot(self) -> None:
        """Stop and boot again on the same tree."""
        self.stop()
        self.boot()

    def remove(self) -> None:
        """Stop it and remove its tree."""
        self.stop()
        unmount(self._place.root)
        shutil.rmtree(self._place.directory)

    def link_down(self) -> None:
        """Cut it off from all others."""
        self._network.set_link(self.name, "down")

    def link_up(self) -> None:
        """Connect it again."""
        self._network.set_link(self.name, "up")

    def doorway(self, port: int) -> AbstractContextManager[int]:
        """Return a context whose value is a port of this test's own loopback interface; it leads to the machine's."""
        return self._network.doorway(f"{self.address}:{port}")

    def run(self, command: Sequence[str], *, seconds: float = 60, stdin: str | bytes = b"", check: bool = True) -> str:
        """Run the command inside, as root; return what it wrote to standard output, raise CommandFailed."""
        return run(self._inside(*command), seconds=seconds, stdin=stdin, check=check)

    def finished(
        self, command: Sequence[str], *, seconds: float = 60, stdin: str | bytes = b""
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command inside and return status and output, whatever they are."""
        return finished(self._inside(*command), seconds=seconds, stdin=stdin, check=False)

    def run_as(self, user: str, command: Sequence[str], *, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run the command inside as a user, in a unit of its own, as a service of that user would be."""
        unit = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "-p", f"User={user}", *command]
        return self.finished(unit, seconds=seconds)

    def json(self, command: Sequence[str], *, seconds: float = 60) -> Any:
        """Run the command inside and return the JSON that it printed."""
        return json.loads(self.run(command, seconds=seconds))

    def shell(self, script: str, *, seconds: float = 60, check: bool = True) -> str:
        """Run a shell script inside, as root."""
        return self.run(["sh", "-euc", script], seconds=seconds, check=check)

    def write(self, path: str, text: str) -> None:
        """Write a file inside."""
        file = self._place.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def copy_in(self, source: Path, path: str) -> None:
        """Copy a file or a tree to the path inside; a tree that is there is added to."""
        target = self._place.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "-aT", "--no-preserve=ownership", source, target], seconds=300)

    def unit(self, unit: str, name: str) -> str:
        """Return a property of a unit, such as ActiveState or MainPID."""
        return self.run(["systemctl", "show", "--value", f"--property={name}", unit]).strip()

    def exposure(self, unit: str, *options: str) -> float:
        """Return how exposed systemd-analyze finds a unit, or a unit's file: 0 is not at all, 10 is fully."""
        said = self.run(["systemd-analyze", "security", "--no-pager", *options, unit])
        return float(said.rpartition("exposure level for")[2].split(":")[1].split()[0])

    def main_process(self, unit: str) -> int:
        """Return the id, inside, of the unit's main process; 0 without one."""
        return int(self.unit(unit, "MainPID") or 0)

    def kill_unit(self, unit: str) -> None:
        """Kill the unit's main process with SIGKILL."""
        self.run(["systemctl", "kill", "--signal=SIGKILL", "--kill-whom=main", unit])

    def failed_units(self) -> list[str]:
        """Return the units that failed."""
        lines = self.run(["systemctl", "list-units", "--state=failed", "--no-legend", "--plain"]).splitlines()
        return [line.split()[0] for line in lines if line.strip()]

    def install(self, *packages: str, options: Sequence[str] = ()) -> str:
        """Install packages from the lab's repository with apt; return what apt said."""
        self.run(["apt-get", "update", "-q"])
        apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-q", "-y", "--no-install-recommends"]
        return self.run([*apt, *options, *packages], seconds=180)

    def journal(self, *, lines: int = 40, unit: str = "") -> str:
        """Return the end of the journal."""
        chosen = [f"--unit={unit}"] if unit else []
        return self.run(["journalctl", "--no-pager", "-o", "short-precise", f"-n{lines}", *chosen], check=False)

    def console(self, lines: int = 30) -> str:
        """Return the end of what the machine wrote to its console."""
        log = self._place.directory / "console.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def story(self) -> str:
        """Return what a failing test prints of this machine."""
        if not self.is_up:
            return f"=== {self.name}: not up\n{self.console()}"
        units = ["systemctl", "--no-pager", "--plain", "--no-legend", "list-units", "--all", "clusterai*"]
        return f"=== {self.name}\n{self.run(units, check=False)}{self.journal()}"

    def eventually(self, check: Callable[[], bool], what: str, *, seconds: float = 15) -> float:
        """Wait until the check holds; return how long that took, fail with this machine's story."""
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            if check():
                return time.monotonic() - begun
            time.sleep(0.2)
        raise AssertionError(f"{self.name}: not within {seconds} s: {what}\n{self.story()}")

    def _inside(self, *command: str) -> list[str]:
        if self._first is None or not self._first.alive:
            raise CommandFailed(f"{self.name} is not up\n{self.console()}")
        return ["nsenter", "-t", str(self._first.id), "-a", "--", *command]


def unmount(root: Path) -> None:
    """Unmount a machine's tree, with whatever is mounted below it."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((path for path in mounts if Path(path).is_relative_to(root)), reverse=True):
        run(["umount", mount])
