"""`clusterai-agent setup ollama`: a release's program, its user, models directory and unit, each where missing."""

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterai.errors import ClusterAIError, Status
from clusterai.files import write_atomic
from clusterai_agent.models import finder
from clusterai_agent.ollama_release import SetupFailed, Source, install, machine_name, no_source

_USER, _HOME = "ollama", Path("/var/lib/ollama")
_COMMAND_SECONDS = 120
_UNIT_TEXT = """\
[Unit]
Description=Ollama
After=network-online.target

# Written by `clusterai-agent setup ollama`. It is yours: change it, or put a drop-in beside it.
[Service]
ExecStart={program} serve
User={user}
Group={group}
Restart=always
RestartSec=3
Environment=OLLAMA_MODELS={models}
# The server's models are read by its mirror.
UMask=0022
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
RestrictSUIDSGID=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""


class NotRoot(ClusterAIError):
    code, status = "not-root", Status.DENIED
    message = "only root may install Ollama"
    hint = "run `sudo clusterai-agent setup ollama …`"


@dataclass(frozen=True)
class Places:
    """Where things are, or will be. Tests have their own."""

    prefixes: tuple[Path, ...] = (Path("/usr/local"), Path("/usr"))
    unit_folders: tuple[Path, ...] = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"))
    packaged: Path = Path("/var/lib/dpkg/info/ollama.list")
    new_models: Path = _HOME / "models"
    old_models: tuple[Path, ...] = (
        Path("/usr/share/ollama/.ollama/models"), Path("/opt/ollama/models"), Path("/opt/ollama"),
    )  # fmt: skip


@dataclass(frozen=True)
class Owner:
    """Who runs Ollama."""

    user: str
    group: str


class System:
    """What is done to the machine besides files: users, owners, units."""

    def make_user(self) -> None:
        """Make the user that Ollama runs as, with a way to the GPUs; one that is there stays as it is."""
        lines = [f'u {_USER} - "Ollama" {_HOME} /usr/sbin/nologin', f"m {_USER} render", f"m {_USER} video"]
        _run(["systemd-sysusers", "--inline", *lines])

    def own(self, directory: Path, owner: Owner) -> None:
        """Give a directory and all in it to Ollama's user."""
        user, group = pwd.getpwnam(owner.user).pw_uid, grp.getgrnam(owner.group).gr_gid
        for path in (directory, *directory.rglob("*")):
            os.chown(path, user, group, follow_symlinks=False)  # a link may lead to anybody's file

    def start(self, unit: str) -> None:
        """Have systemd read its files and run the unit, now and after each boot."""
        if not Path("/run/systemd/system").is_dir():
            print("There is no systemd here; start it with: ollama serve")
            return
        _run(["systemctl", "daemon-reload"])
        _run(["systemctl", "enable", "--quiet", unit])
        _run(["systemctl", "restart", unit])


async def setup_ollama(
    source: str, sha256: str, *, places: Places | None = None, system: System | None = None, user_id: int | None = None
) -> None:
    """Install a release where one is named, and whatever is missing around the program.

    Raises:
        NotRoot, SetupFailed, WrongHash, NotEnoughSpace: each says what was changed.
    """
    places, system = places or Places(), system or System()
    if (os.geteuid() if user_id is None else user_id) != 0:
        raise NotRoot
    machine_name()
    program = finder.binary(prefix / "bin/ollama" for prefix in places.prefixes)
    if source:
        program = _install(Source(source, sha256).checked(), program, places)
    elif program is None:
        raise no_source()
    models, owner = _models(places, system)
    unit = _unit(places, program, models, owner)
    system.start(finder.UNIT)
    print(f"Ollama runs ({finder.UNIT}): {program}, models in {models}.")
    print(f"Its unit is {unit}. The agent finds it within seconds: clusterai-agent status")


def _install(source: Source, program: Path | None, places: Places) -> Path:
    if program is not None and places.packaged.exists() and program.parent == places.prefixes[-1] / "bin":
        raise SetupFailed(program, "it belongs to the package ollama", "`sudo apt upgrade ollama` renews that one")
    prefix = program.parent.parent if program is not None else places.prefixes[0]
    progress = _Progress()
    try:
        install(source, prefix, progress)
    finally:
        progress.done()
    return prefix / "bin/ollama"


def _models(places: Places, system: System) -> tuple[Path, Owner]:
    """The models directory, the one that is there or a new one, and who it belongs to."""
    system.make_user()
    ours = Owner(_USER, _USER)
    for directory in (*places.old_models, *_of_the_person()):
        if not (directory / "manifests").is_dir():
            continue
        owner = directory.owner()
        if owner != "root":
            print(f"The models in {directory} are kept.")
            return directory, Owner(owner, directory.group())
        print(f"The models in {directory} are kept; they belong to the user {_USER} now.")
        system.own(directory, ours)
        return directory, ours
    places.new_models.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder in (places.new_models.parent, places.new_models):
        folder.chmod(0o755)
    system.own(places.new_models.parent, ours)
    return places.new_models, ours


def _of_the_person() -> Sequence[Path]:
    """Where the models are of the person who used sudo."""
    try:
        return (Path(pwd.getpwnam(os.environ.get("SUDO_USER", "")).pw_dir) / ".ollama/models",)
    except KeyError:
        return ()


def _unit(places: Places, program: Path, models: Path, owner: Owner) -> Path:
    """The unit's file, the one that is there or a new one."""
    for folder in places.unit_folders:
        if (file := folder / finder.UNIT).exists():
            print(f"{file} is kept as it is.")
            return file
    file = places.unit_folders[0] / finder.UNIT
    text = _UNIT_TEXT.format(program=program, user=owner.user, group=owner.group, models=models)
    write_atomic(file, text.encode(), 0o644)
    return file


class _Progress:
    """One line on a terminal, whole percents only; without a terminal one line for each step."""

    def __init__(self) -> None:
        self._shown = ""
        self._terminal = sys.stdout.isatty()

    def __call__(self, step: str, done: int, size: int) -> None:
        amount = f"{done / size:4.0%}" if size else f"{done / 1e6:6.0f} MB"
        text = f"{step} {amount}" if self._terminal else step
        if text != self._shown:
            self._shown = text
            print(f"\r{text:<40}" if self._terminal else text, end="" if self._terminal else "\n", flush=True)

    def done(self) -> None:
        """End the line."""
        if self._terminal and self._shown:
            print()


def _run(command: list[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupFailed(command[0], str(error), "correct it and run the same command again") from error
    if ended.returncode:
        reason = ended.stderr.strip()[-500:] or f"exit code {ended.returncode}"
        raise SetupFailed(" ".join(command[:2]), reason, "correct it and run the same command again")
