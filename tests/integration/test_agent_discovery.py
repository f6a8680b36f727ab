"""Discovery by multicast in a network namespace of its own: found there, and survived where there is none."""

import asyncio
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join(str(ROOT / part) for part in ("common", "agent", "daemon"))
WITH_MULTICAST = (
    "ip link set lo up && ip link add v0 type veth peer name v1 && ip addr add 192.0.2.5/24 dev v0"
    " && ip link set v0 up && ip link set v1 up && "
)
BROWSE = """
import asyncio
from clusterai_agent.discovery import browse, of_cluster
found = asyncio.run(browse(1))
print([str(address) for address in of_cluster(found, "c-test")], [s.enrollment_port for s in found])
"""
ANNOUNCE_AND_BROWSE = """
import asyncio
from clusteraid.announce import Announcement, Announcer
from clusteraid.status import Problems
from clusterai_agent.discovery import browse, of_cluster

async def main():
    async with Announcer(Problems()).announced(Announcement("c-test", ["192.0.2.5"], 7443, 7555)):
        found = await browse()
    print([str(address) for address in of_cluster(found, "c-test")], [s.enrollment_port for s in found])

asyncio.run(main())
"""


async def in_a_namespace(code: str, prepare: str = "") -> tuple[int, str, str]:
    """Run Python code in a user and network namespace that has nothing but loopback."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "--net", "sh", "-c", f'{prepare}exec "$0" -P -c "$1"'),
        *(sys.executable, code),
        env={**os.environ, "PYTHONPATH": PATHS}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, output.decode(), errors.decode()


async def test_an_announced_server_is_found_with_its_ports() -> None:
    code, output, errors = await in_a_namespace(ANNOUNCE_AND_BROWSE, WITH_MULTICAST)
    assert (code, output) == (0, "['192.0.2.5:7443'] [7555]\n"), errors


async def test_a_network_without_multicast_is_survived() -> None:
    assert await in_a_namespace(BROWSE) == (0, "[] []\n", "")
