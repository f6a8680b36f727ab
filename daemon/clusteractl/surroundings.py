"""What the command takes from where it runs, read once."""

import getpass
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clusteractl.output import Output, terminal_width

SYSTEM_SOCKET = Path("/run/clusterai/clusteraid.sock")


@dataclass(frozen=True)
class Surroundings:
    """The environment, the home directory, and whether a person sits at the terminal."""

    environment: Mapping[str, str]
    home: Path
    asks: bool
    draws: bool

    @classmethod
    def real(cls) -> "Surroundings":
        """Those of this process."""
        draws = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        return cls(dict(os.environ), Path.home(), sys.stdin.isatty() and sys.stderr.isatty(), draws)

    @property
    def config_directory(self) -> Path:
        """Where the login and what belongs to it lie."""
        base = self.environment.get("XDG_CONFIG_HOME") or self.home / ".config"
        return Path(base) / "clusterai"

    @property
    def local_socket(self) -> Path:
        """The socket of this user's `clusteraid local`, unless it was given another directory."""
        base = self.environment.get("XDG_DATA_HOME") or self.home / ".local/share"
        return Path(base) / "clusterai/local/run/clusteraid.sock"

    @property
    def user(self) -> str:
        """The user's name, for advice."""
        return self.environment.get("SUDO_USER") or self.environment.get("USER") or getpass.getuser()

    def output(self, *, as_json: bool) -> Output:
        """Where results go; coloured only on a terminal and never with NO_COLOR (https://no-color.org)."""
        plain = self.environment.get("NO_COLOR") or self.environment.get("TERM") == "dumb"
        colour = sys.stdout.isatty() and not plain
        return Output(sys.stdout, sys.stderr, as_json=as_json, colour=colour, width=terminal_width())
