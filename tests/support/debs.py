"""Real .debs for tests, made with dpkg-deb, for Debian and for Termux; and the repository that publishes them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterai.pki import CertificateAuthority
from clusteraid.repository import command
from clusteraid.repository.release import load_release

TERMUX = "data/data/com.termux/files/usr"


def make_deb(
    directory: Path, name: str = "clusterai-agent", version: str = "1.0", *, architecture: str = "all",
    prefix: str = "usr", content: str = "", depends: str = "", extra: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Make a .deb that installs PREFIX/share/NAME/version; its name in the file system says nothing of what it is."""
    tree = directory / f"tree-{len(list(directory.iterdir()))}"
    for installed in (f"{prefix}/share/{name}/version", *extra):
        (tree / installed).parent.mkdir(parents=True, exist_ok=True)
        (tree / installed).write_text(content or version)
    (tree / "DEBIAN").mkdir()
    needs = f"Depends: {depends}\n" if depends else ""
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: Test <test@example.org>\n"
        f"{needs}Description: test\n"
    )
    path = directory / f"{tree.name}.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Zxz", "--nocheck", "--build", str(tree), str(path)]
    subprocess.run(build, check=True, capture_output=True, timeout=60)
    return path


@dataclass
class Server:
    """A server's state directory and its repository, used through `clusteraid repo`."""

    directory: Path
    repository: Path
    authority: CertificateAuthority
    settings: str = ""

    def __post_init__(self) -> None:
        pki = self.state / "pki"
        pki.mkdir(parents=True)
        (pki / "cluster-ca.pem").write_bytes(self.authority.cert_pem)
        self.repository.mkdir(exist_ok=True)
        self.configure(self.settings)

    def configure(self, settings: str) -> None:
        """Write the configuration, with some lines below `[repository]`."""
        text = f'[server]\nstate_directory = "{self.state}"\n[repository]\ndirectory = "{self.repository}"\n{settings}'
        self.config.write_text(text)

    @property
    def state(self) -> Path:
        """The daemon's state directory."""
        return self.directory / "state"

    @property
    def config(self) -> Path:
        """The configuration's file."""
        return self.directory / "clusteraid.toml"

    @property
    def current(self) -> Path:
        """What the gateway serves."""
        return self.repository / "current"

    def repo(self, *words: str | Path) -> int:
        """Run `clusteraid repo`; return its exit code."""
        before = os.umask(0o022)
        try:
            return command.main(["--config", str(self.config), *(str(word) for word in words)])
        finally:
            os.umask(before)

    def program(self, *words: str | Path) -> list[str]:
        """The command that runs it as a program of its own."""
        program = [sys.executable, "-P", "-m", "clusteraid", "repo", "--config", str(self.config)]
        return [*program, *(str(word) for word in words)]

    def published(self) -> list[str]:
        """Return name and version of what is offered, as it is listed."""
        if not self.current.exists():
            return []
        return [f"{package.name} {package.version}" for package in load_release(self.current.resolve()).packages]
