"""A phone that starts by itself: the script that the app Termux:Boot runs, and what is known of whether it did."""

import time
from dataclasses import dataclass
from pathlib import Path

from clusterai.errors import ClusterAIError
from clusterai.files import CannotWrite, remove, write_atomic
from clusterai_agent.collectors.sysinfo import uptime_and_load

_MARK = "booted"  # touched by the script, so that `status` can tell whether Termux:Boot ever ran it
_MINE = "# Written by `clusterai-agent join`; `clusterai-agent leave` removes it."
_SCRIPT = """#!{prefix}/bin/sh
{mine}
touch {mark}
termux-wake-lock
. {prefix}/etc/profile.d/start-services.sh
"""
_APP = "install the app Termux:Boot from where Termux came from, and open it once"
_SLACK_SECONDS = 600.0  # an unlocked phone starts its apps minutes after its kernel


@dataclass(frozen=True)
class Boot:
    """Where the script lies: in the home of Termux's user, a neighbour of the prefix."""

    prefix: Path
    state: Path

    @property
    def script(self) -> Path:
        """The script's path."""
        return self.prefix.parent / "home/.termux/boot/clusterai-agent"

    def write(self) -> str:
        """Write the script; return what to tell a person.

        Raises:
            CannotWrite: no space or no permission.
        """
        if not self.script.parents[2].is_dir():
            return f"{self.script.parents[2]} is not there: no script for Termux:Boot was written."
        text = _SCRIPT.format(prefix=self.prefix, mine=_MINE, mark=self.state / _MARK)
        try:
            self.script.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotWrite(self.script, error) from error
        write_atomic(self.script, text.encode(), 0o700)
        return f"After a reboot it starts by itself with the app Termux:Boot ({_APP})."

    def remove(self) -> None:
        """Remove the script if it is ours; raise CannotWrite."""
        if self._is_ours():
            remove(self.script)
        remove(self.state / _MARK)

    def known(self, up_seconds: float | None = None) -> str:
        """Return what is to be said of starting by itself; empty when Termux:Boot did it at the last boot.

        Nobody may ask Android which apps are there: all that can be known is whether the script ran.
        """
        if not self._is_ours():
            return f"it does not start after a reboot: there is no {self.script}; `clusterai-agent join` writes it"
        up_seconds = uptime_and_load()[0] if up_seconds is None else up_seconds
        try:
            ran = (self.state / _MARK).stat().st_mtime
        except OSError:
            return f"Termux:Boot has not started it yet: for a start after a reboot, {_APP}"
        if up_seconds and ran < time.time() - up_seconds - _SLACK_SECONDS:
            return f"Termux:Boot did not start it at the last boot: {_APP}"
        return ""

    def _is_ours(self) -> bool:
        try:
            return _MINE in self.script.read_text(errors="replace")
        except OSError:
            return False


def try_write(boot: Boot) -> str:
    """Write the script, or say why not: a machine that has joined has joined."""
    try:
        return boot.write()
    except ClusterAIError as error:
        return f"No script for Termux:Boot was written: {error}; {error.advice}"
