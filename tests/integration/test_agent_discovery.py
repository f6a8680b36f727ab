"""Discovery by multicast in a network namespace of its own: found there, and survived where there is none."""

from support.namespace import WITH_MULTICAST, in_a_namespace

BROWSE = """
import asyncio
from clusterai_agent.discovery import browse, of_cluster
found = asyncio.run(browse(1))
print([str(address) for address in of_cluster(found, "c-test")], [s.enrollment_port for s in found])
"""
ANNOUNCE_ANEW = """
import asyncio
from clusteraid.announce import Announcement, Announcer
from clusteraid.status import Problems
from clusterai_agent.discovery import browse, of_cluster

async def main():
    announcer = Announcer(Problems())
    announcing = asyncio.create_task(announcer.keep(Announcement("c-test", ["192.0.2.9"], 7443, 7555)))
    assert await announcer.check()
    await announcer.announce(Announcement("c-test", ["192.0.2.5"], 7443, 7555))
    found = await browse()
    announcing.cancel()
    await asyncio.wait([announcing])
    print([str(address) for address in of_cluster(found, "c-test")])

asyncio.run(main())
"""
ANNOUNCE_AND_BROWSE = """
import asyncio
from clusteraid.announce import Announcement, Announcer
from clusteraid.status import Problems
from clusterai_agent.discovery import browse, of_cluster

async def main():
    announcing = asyncio.create_task(Announcer(Problems()).keep(Announcement("c-test", ["192.0.2.5"], 7443, 7555)))
    found = await browse()
    announcing.cancel()
    await asyncio.wait([announcing])
    print([str(address) for address in of_cluster(found, "c-test")], [s.enrollment_port for s in found])

asyncio.run(main())
"""


async def test_an_announced_server_is_found_with_its_ports() -> None:
    code, output, errors = await in_a_namespace(ANNOUNCE_AND_BROWSE, WITH_MULTICAST)
    assert (code, output) == (0, "['192.0.2.5:7443'] [7555]\n"), errors


async def test_a_server_that_moved_is_found_where_it_is_now() -> None:
    code, output, errors = await in_a_namespace(ANNOUNCE_ANEW, WITH_MULTICAST)
    assert (code, output) == (0, "['192.0.2.5:7443']\n"), errors


async def test_a_network_without_multicast_is_survived() -> None:
    assert await in_a_namespace(BROWSE) == (0, "[] []\n", "")
