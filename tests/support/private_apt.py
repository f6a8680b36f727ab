"""The real apt and dpkg in a directory of their own, as on Debian or with Termux's prefix."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

PREFIX = "data/data/com.termux/files/usr"
_SECONDS = 60.0


@dataclass
class PrivateApt:
    """apt below a root. `prefix` is where its etc, var and dpkg are, `architecture` what it thinks it runs on."""

    root: Path
    prefix: str = ""
    architecture: str = "amd64"

    def __post_init__(self) -> None:
        for path in ("etc/apt/sources.list.d", "etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/trusted.gpg.d",
                     "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/log",
                     "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):  # fmt: skip
            (self.home / path).mkdir(parents=True)
        (self.home / "var/lib/dpkg/status").touch()
        (self.home / "var/lib/dpkg/available").touch()
        self.config.write_text(
            f'Dir "{self.home}/"; Dir::State::status "{self.home}/var/lib/dpkg/status";\n'
            f'Dir::Bin::methods "/usr/lib/apt/methods/"; Dir::Bin::dpkg "/usr/bin/dpkg";\n'
            f'Dir::Log "{self.home}/var/log/"; APT::Architecture "{self.architecture}"; APT::Architectures "";\n'
            f'APT::Sandbox::User ""; Debug::NoLocking "true"; Acquire::Languages "none"; Acquire::Retries "0";\n'
            f'APT::Install-Recommends "false"; #clear Dpkg::Post-Invoke; #clear Dpkg::Pre-Install-Pkgs;\n'
            'Dpkg::Options { "--force-not-root"; "--force-script-chrootless"; '
            f'"--instdir={self.root}"; "--admindir={self.home}/var/lib/dpkg"; '
            f'"--log={self.home}/var/log/dpkg.log"; }};\n'
        )

    @property
    def home(self) -> Path:
        """Where its etc and var are."""
        return self.root / self.prefix

    @property
    def config(self) -> Path:
        """What APT_CONFIG names."""
        return self.home / "apt.conf"

    @property
    def environment(self) -> dict[str, str]:
        """With it every apt is this one."""
        path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "APT_CONFIG": str(self.config)}
        return {**path, "LC_ALL": "C.UTF-8", "HOME": str(self.root), "TMPDIR": os.environ.get("TMPDIR", "/tmp")}

    def write_source(self, uri: str, key: Path, ca: Path | None = None, host: str = "localhost") -> None:
        """Let it know a repository, as `setup.sh` does."""
        (self.home / "etc/apt/sources.list.d/clusterai.sources").write_text(
            f"Types: deb\nURIs: {uri}\nSuites: stable\nComponents: main\nSigned-By: {key}\n"
        )
        if ca is not None:
            setting = f'Acquire::https::{host}::CAInfo "{ca}";\n'
            (self.home / "etc/apt/apt.conf.d/80clusterai").write_text(setting)

    def run(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run apt-get and return what came of it; its output has what it wrote to standard error too."""
        return subprocess.run(
            ["apt-get", "-q", *words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=_SECONDS, check=False,
        )

    def update(self) -> "subprocess.CompletedProcess[str]":
        """Read the repository; anything wrong is a failure."""
        return self.run("update", "-o", "APT::Update::Error-Mode=any")

    def install(self, *packages: str) -> "subprocess.CompletedProcess[str]":
        """Install without asking."""
        return self.run("install", "-y", *packages)

    def version(self, package: str) -> str:
        """Return the installed version; empty when it is not installed."""
        query = ["dpkg-query", f"--admindir={self.home}/var/lib/dpkg", "-W", "-f", "${Version}", package]
        done = subprocess.run(query, capture_output=True, text=True, timeout=_SECONDS, check=False)
        return done.stdout
