"""A simulated Termux on this machine: its prefix, an app's user and rights, what Android denies, and the real apt,
dpkg and runit on Debian's Python 3.14 in Termux's place. Needs root.

    with Phone.on(tmp_path) as phone:
        phone.install(deb)                               # with the real dpkg
        done = phone.run("clusterai-agent", "facts")     # a program, as the app's user
        phone.shell("sv-enable clusterai-agent")         # in a session of Termux: a login shell, services run
        phone.battery(percentage=41, plugged="UNPLUGGED")
        phone.reboot()                                   # all processes are gone, the files stay

It has this machine's network, or one of its own (support/air.py), without netlink. Not simulated: bionic, SELinux,
Doze, Wi-Fi.
"""

import json
import os
import pty
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.phone_image import GROUP, HERE, MINORS, USER, phone_image

APP = "/data/data/com.termux"
PREFIX, HOME = f"{APP}/files/usr", f"{APP}/files/home"
APT_CONFIG = f"{PREFIX}/etc/apt/apt.conf"
_SECONDS = 120.0
# What is installed on the phone before ours: name and version, as Termux has them.
_PACKAGES = {
    "python": "3.14.6-1", "python-psutil": "7.2.2-2",
    "python-numpy": "2.4.4-1", "python-msgpack": "1.2.1-2", "openssl": "1:3.6.3", "openssl-tool": "1:3.6.3",
    "runit": "2.1.2-4", "termux-services": "0.13-1", "termux-tools": "1.46.0", "termux-api": "0.59.1-1",
}  # fmt: skip
_PROGRAMS = (
    "apt", "apt-get", "apt-cache", "awk", "basename", "bash", "cat", "chmod", "cmp", "cp", "curl", "cut", "date", "df",
    "diff", "dirname", "dpkg", "dpkg-deb", "dpkg-query", "dpkg-split", "echo", "env", "find", "grep", "gzip", "head",
    "id", "kill", "ln", "ls", "mkdir", "mktemp", "mv", "openssl", "ps", "pwd", "python3", "readlink", "rm", "rmdir",
    "sed", "sh", "sha256sum", "sleep", "sort", "stat", "tail", "tar", "test", "touch", "tr", "true", "uname", "wc",
    "xargs", "xz", "runsvdir", "runsv", "sv", "svlogd",
)  # fmt: skip
_BATTERY = {
    "present": True, "technology": "Li-ion", "health": "GOOD", "plugged": "PLUGGED_AC", "status": "CHARGING",
    "temperature": 29.7, "voltage": 4120, "current": 350_000, "percentage": 85, "level": 85, "scale": 100,
}  # fmt: skip


@dataclass
class Phone:
    """One phone. `directory` keeps its files between reboots; `shown` are host directories by their name in /mnt."""

    directory: Path
    release: str = "forky"
    semaphores: bool = True
    network: str = ""  # a network namespace (ip-netns(8)); empty: this machine's own
    storage_megabytes: int = 0  # 0: as much as this machine has
    shown: Mapping[str, Path] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    _holder: "subprocess.Popen[bytes] | None" = None

    @classmethod
    @contextmanager
    def on(cls, directory: Path, **options: Any) -> "Iterator[Phone]":
        """Yield a new phone that is on; at the end of the block it is off."""
        phone = cls(directory / "phone", **options)
        phone.directory.mkdir()
        phone._make()
        phone.switch_on()
        try:
            yield phone
        finally:
            phone.switch_off()

    def at(self, path: str) -> Path:
        """Return where this machine has a path of the phone: an absolute one, or one below its prefix."""
        return self.directory / (path if path.startswith("/") else f"{PREFIX}/{path}").lstrip("/")

    @property
    def environment(self) -> dict[str, str]:
        """What the Termux app gives its programs. APT_CONFIG and DPKG_ADMINDIR stand for what is compiled in there."""
        return {
            "HOME": HOME, "PREFIX": PREFIX, "TMPDIR": f"{PREFIX}/tmp", "PATH": f"{PREFIX}/bin", "LANG": "C.UTF-8",
            "SHELL": f"{PREFIX}/bin/bash", "TERM": "xterm-256color", "ANDROID_ROOT": "/system", "ANDROID_DATA": "/data",
            "TERMUX_VERSION": "0.118.3", "TERMUX_APK_RELEASE": "F_DROID", "TERMUX_APP__APK_RELEASE": "F_DROID",
            "TERMUX_MAIN_PACKAGE_FORMAT": "debian", "TERMUX_APP_PACKAGE_MANAGER": "apt",
            "APT_CONFIG": APT_CONFIG, "DPKG_ADMINDIR": f"{PREFIX}/var/lib/dpkg", **self.variables,
        }  # fmt: skip

    def switch_on(self) -> None:
        """Boot: no process runs yet, not even services."""
        root = self.directory / "root"
        root.mkdir(exist_ok=True)
        shown = [str(word) for name, path in self.shown.items() for word in (path, name)]
        network = ["nsenter", f"--net=/run/netns/{self.network}"] if self.network else []
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--propagation=private"]
        command = [*network, "unshare", *spaces, "--fork", "--kill-child"]
        semaphores = "yes" if self.semaphores else "no"
        paths = (HERE / "holder.sh", phone_image(self.release), root, self.directory / "data")
        holder = [*map(str, paths), semaphores, str(self.storage_megabytes)]
        self._holder = subprocess.Popen(
            [*command, *holder, *shown], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            self.switch_off()
            raise AssertionError("the simulated phone did not start")

    def switch_off(self) -> None:
        """End every process of the phone at once, as an empty battery does."""
        if self._holder is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._holder.pid, signal.SIGKILL)
            self._holder.wait(_SECONDS)
            assert self._holder.stdout is not None
            self._holder.stdout.close()
            self._holder = None

    def reboot(self, release: str = "") -> None:
        """Switch off and on; with another release everything of Termux but our own files is of that one."""
        self.switch_off()
        self.release = release or self.release
        self.switch_on()

    def upgrade_python(self, release: str) -> "subprocess.CompletedProcess[str]":
        """Install another Python with the real dpkg, under what runs: the programs and modules of another release."""
        self.release = release
        self._as_machine('mount -o bind,ro "$1" "$0/usr"', phone_image(release) / "usr")
        with tempfile.TemporaryDirectory() as directory:
            tree, deb = Path(directory, "tree"), Path(directory, "python.deb")
            program = tree / f"{PREFIX}/bin/python3".lstrip("/")
            for path in (program.parent, tree / "DEBIAN"):
                path.mkdir(parents=True)
            program.symlink_to("/usr/bin/python3")
            (tree / "DEBIAN/control").write_text(_control("python", f"{MINORS[release]}.99"))
            subprocess.run(["dpkg-deb", "-Zxz", "-b", tree, deb], check=True, stdout=subprocess.DEVNULL, timeout=60)
            return self.install(deb)

    def fill(self, *paths: str) -> None:
        """Let no more be written below these directories, as when storage is full; what is there stays."""
        for path in paths:
            self._as_machine(_FILL, self.at(path).relative_to(self.directory))

    def hide(self, path: str) -> None:
        """Let a directory of the system be empty until `show`, or the next boot."""
        self._as_machine('mount -t tmpfs nothing "$0/$1"', path.lstrip("/"))

    def show(self, path: str) -> None:
        """End what `hide` did."""
        self._as_machine('umount "$0/$1"', path.lstrip("/"))

    def boot_scripts(self) -> None:
        """Do what the Termux:Boot app does after a boot."""
        for script in sorted(self.at(f"{HOME}/.termux/boot").glob("*")):
            self.run("sh", f"{HOME}/.termux/boot/{script.name}")

    def command(self, *words: str, as_root: bool = False, **variables: str) -> list[str]:
        """Return the command of this machine that runs a program on the phone."""
        place = ("--net", "--mount", "--pid", "--uts", "--ipc", "--root", f"--wdns={HOME}")
        user = ["--reuid", str(USER), "--regid", str(GROUP), "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
        given = (f"{name}={value}" for name, value in {**self.environment, **variables}.items())
        confined = ["/usr/bin/setpriv", *([] if as_root else user), "--", "/usr/bin/env", "-i", *given]
        return ["nsenter", "--target", self._first(), *place, "--", *confined, "/usr/bin/python3", "-I", "-S", "-c",
                _APP, *words]  # fmt: skip

    def run(
        self, *words: str, given: str = "", seconds: float = _SECONDS, as_root: bool = False, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end, as the app's user; `given` is its standard input, `variables` its environment."""
        return subprocess.run(
            self.command(*words, as_root=as_root, **variables), input=given, capture_output=True, text=True,
            errors="replace", timeout=seconds, check=False,
        )  # fmt: skip

    def shell(self, script: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a script in a session of Termux: its login shell has started the services."""
        return self.run("bash", "-c", f". {PREFIX}/etc/profile\n{script}", **options)

    def start(self, *words: str, log: Path, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a program whose output goes to the file; it ends with the phone at the latest."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.command(*words, as_root=False, **variables), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def ask(self, script: str, answer: str = "", **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a script in a session on a terminal, where the answer is typed; the output has all that it showed."""
        leader, follower = pty.openpty()
        os.write(leader, answer.encode())
        command = self.command("bash", "-c", f". {PREFIX}/etc/profile\n{script}", **options)
        try:
            return subprocess.run(
                ["setsid", "--ctty", "--wait", *command], stdin=follower, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", timeout=_SECONDS, check=False,
            )  # fmt: skip
        finally:
            os.close(leader)
            os.close(follower)

    def install(self, *debs: Path) -> "subprocess.CompletedProcess[str]":
        """Install packages with the real dpkg, as apt would have it do."""
        for deb in debs:
            shutil.copy(deb, self.at("tmp"))
        done = self.run("dpkg", *DPKG_OPTIONS, "-i", *(f"{PREFIX}/tmp/{deb.name}" for deb in debs))
        for deb in debs:
            self.at(f"tmp/{deb.name}").unlink()
        return done

    def version(self, package: str) -> str:
        """Return the installed version of a package; empty when it is not installed."""
        done = self.run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package)
        state, _, version = done.stdout.partition(" ")
        return version if state == "installed" else ""

    def processes(self) -> dict[int, list[str]]:
        """Return the command lines of what runs on the phone, by the process id that this machine knows."""
        home, found = Path(f"/proc/{self._first()}/ns/pid").readlink(), {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "ns/pid").readlink() == home:
                    found[int(process.name)] = (process / "cmdline").read_text().split("\0")[:-1]
        return found

    def battery(self, text: str | None = None, **changed: Any) -> None:
        """Let `termux-battery-status` tell this: the usual reading with changes (None: without it), or any text.

        The text `hang` makes it wait for ever. A text of several lines is a trace: each call tells the next line.
        """
        reading = {name: value for name, value in {**_BATTERY, **changed}.items() if value is not None}
        self._write("var/phone/battery", json.dumps(reading) if text is None else text)
        self.at("var/phone/battery.told").unlink(missing_ok=True)

    def write(self, path: str, text: str) -> None:
        """Write a file of the app's user, with the directories above it."""
        missing = [above for above in self.at(path).parents if not above.exists()]
        self._write(path, text)
        for directory in missing:
            os.chown(directory, USER, GROUP)

    def without_termux_api(self) -> None:
        """Take the package termux-api away."""
        for name in ("termux-battery-status", "termux-wifi-connectioninfo"):
            self.at(f"bin/{name}").unlink()

    def _as_machine(self, script: str, *words: object) -> None:
        """Run a script as root among this machine's files, with the phone's mounts below $0."""
        inside = ["nsenter", "--target", self._first(), "--mount", "--", "sh", "-euc", script]
        subprocess.run([*inside, str(self.directory / "root"), *map(str, words)], check=True, timeout=60)

    def _first(self) -> str:
        """The process id of the phone's first process: unshare's child; its own number in the namespace is 1."""
        assert self._holder is not None, "the phone is off"
        return Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()[0]

    def _make(self) -> None:
        """Lay out what the app and its bootstrap bring."""
        for path in ("bin", "etc/apt/sources.list.d", "etc/apt/trusted.gpg.d", "etc/apt/preferences.d", "tmp", "lib",
                     "etc/apt/apt.conf.d", "etc/profile.d", "share/termux-services", "var/lib/dpkg/info", "var/service",
                     "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/apt/lists/partial", "var/log/sv",
                     "var/run", "var/phone", f"{APP}/cache/apt/archives/partial", HOME):  # fmt: skip
            self.at(path).mkdir(parents=True)
        for program in _PROGRAMS:
            self.at(f"bin/{program}").symlink_to(f"/usr/bin/{program}")
        self.at("bin/python").symlink_to("python3")
        for source in sorted((HERE / "termux").rglob("*")):
            if source.is_file():
                path = str(source.relative_to(HERE / "termux"))
                self._write(path, source.read_text(), 0o755)
        self._write("etc/apt/apt.conf", _apt_conf())
        self._write("var/lib/dpkg/available", "")
        for name in _PACKAGES:
            self._write(f"var/lib/dpkg/info/{name}.list", "")
        self._write("var/lib/dpkg/status", "\n".join(_status(name, version) for name, version in _PACKAGES.items()))
        self.battery()
        for path in ("/data", "/data/data"):
            self.at(path).chmod(0o771)
        for place, directories, files in os.walk(self.at(APP)):
            for name in (".", *directories, *files):
                os.chown(Path(place, name), USER, GROUP, follow_symlinks=False)
        self.at(APP).chmod(0o700)

    def _write(self, path: str, text: str, mode: int = 0o644) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)
        self.at(path).chmod(mode)
        os.chown(self.at(path), USER, GROUP)


_FILL = """
place=$0/mnt/full-$$
mkdir "$place"
mount -t tmpfs -o size=1m full "$place"
cp -a "$0/$1/." "$place"
cat /dev/zero 2>/dev/null >"$place/.full" || true
mount --bind "$place" "$0/$1"
"""
_APP = (HERE / "app.py").read_text()
DPKG_OPTIONS = (
    "--force-not-root", "--force-script-chrootless", "--force-bad-path", f"--log={PREFIX}/var/log/dpkg.log"
)  # fmt: skip


def _apt_conf() -> str:
    """What Termux's apt has compiled in."""
    options = "".join(f'"{option}"; ' for option in (*DPKG_OPTIONS, f"--admindir={PREFIX}/var/lib/dpkg"))
    return f"""
Dir "{PREFIX}/"; Dir::Etc "etc/apt/"; Dir::State "var/lib/apt/"; Dir::State::status "{PREFIX}/var/lib/dpkg/status";
Dir::Cache "{APP}/cache/apt/"; Dir::Log "{PREFIX}/var/log/"; Dir::Bin::methods "/usr/lib/apt/methods/";
Dir::Bin::dpkg "/usr/bin/dpkg"; APT::Sandbox::User ""; Debug::NoLocking "true"; Acquire::Languages "none";
APT::Architecture "aarch64"; APT::Architectures "aarch64"; Acquire::Retries "0"; APT::Install-Recommends "false";
#clear Dpkg::Post-Invoke; #clear Dpkg::Pre-Install-Pkgs;
Dpkg::Options {{ {options}}};
"""


def _status(name: str, version: str) -> str:
    return _control(name, version) + "Status: install ok installed\n"


def _control(name: str, version: str) -> str:
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Termux\nDescription: simulated\n"
    )
