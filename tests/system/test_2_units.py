"""The contract of `clusterai.units` on systemd itself, on both releases, as the agent's user."""

from pathlib import Path

import pytest

from lab.cluster import Cluster

UNIT = "clusterai-worker@contract-0.service"
# The agent's user, so that it may kill what it starts: the contract does that behind systemd's back.
DROP_IN = "[Service]\nExecStart=\nExecStart=/usr/bin/sleep infinity\nUser=clusterai-agent\n"
SCRIPT = f"""
import asyncio, os, signal, sys
sys.path.insert(0, "/srv/units")
from contract.units_contract import Subject, run_contract
from clusterai.ids import UnitName
from clusterai.units import UnitsConfig, open_units

async def kill(process_id):
    os.kill(process_id, signal.SIGKILL)

async def main():
    async with open_units(UnitsConfig()) as units:
        print(*await run_contract(Subject(units, UnitName("{UNIT}"), kill)), sep="\\n")

asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["alpha", "gamma"], ids=["bookworm", "trixie"])
def test_systemd_keeps_the_contract_of_units(cluster: Cluster, repository_root: Path, name: str) -> None:
    machine, drop_in = cluster.lab[name], f"/etc/systemd/system/{UNIT}.d/lab.conf"
    machine.copy_in(repository_root / "tests/contract/units_contract.py", "/srv/units/contract/units_contract.py")
    machine.write("/srv/units/run.py", SCRIPT)
    machine.write(drop_in, DROP_IN)
    machine.run(["systemctl", "daemon-reload"])
    try:
        told = machine.run_as("clusterai-agent", ["/usr/bin/python3", "/srv/units/run.py"], seconds=90)
        assert told.returncode == 0, told.stderr
        assert len(told.stdout.split()) >= 9
    finally:
        machine.shell(f"systemctl stop {UNIT}; rm -r {Path(drop_in).parent}; systemctl daemon-reload")
        machine.run(["systemctl", "reset-failed", UNIT], check=False)
