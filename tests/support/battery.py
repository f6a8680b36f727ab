"""A battery and a charger as /sys/class/power_supply shows them, in a directory that an agent is made to read."""

from pathlib import Path

# Imported by the agent's Python at its start (see the module `site`): it reads the tree in place of /sys.
_SITE = """
from pathlib import Path
import psutil._pslinux
import clusterai_agent.collectors.battery
psutil._pslinux.POWER_SUPPLY_PATH = {tree!r}
clusterai_agent.collectors.battery.SUPPLIES = Path({tree!r})
"""
_FULL = 50_000_000


class BatteryTree:
    """A laptop's two power supplies."""

    def __init__(self, directory: Path) -> None:
        self._tree, self.modules = directory / "power_supply", directory / "site"
        for name, kind in (("BAT0", "Battery"), ("AC", "Mains")):
            (self._tree / name).mkdir(parents=True)
            (self._tree / name / "type").write_text(f"{kind}\n")
        (self._tree / "BAT0/energy_full").write_text(f"{_FULL}\n")
        self.modules.mkdir()
        (self.modules / "sitecustomize.py").write_text(_SITE.format(tree=str(self._tree)))
        self.charge(0.95)
        self.plug()

    def charge(self, ratio: float) -> None:
        """Have so much charge, 0..1."""
        (self._tree / "BAT0/energy_now").write_text(f"{int(_FULL * ratio)}\n")

    def plug(self) -> None:
        """Put the charger in."""
        (self._tree / "AC/online").write_text("1\n")

    def unplug(self) -> None:
        """Pull the charger out."""
        (self._tree / "AC/online").write_text("0\n")
