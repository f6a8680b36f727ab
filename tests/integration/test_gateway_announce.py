"""The server's own name by multicast DNS, in a network namespace of its own."""

from support.namespace import WITH_MULTICAST, in_a_namespace

LOOK = """
import asyncio, socket
from clusteraid.announce import HTTPS_TYPE, Announcement, Announcer
from clusteraid.status import Problems
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

async def main():
    machine = socket.gethostname().partition(".")[0][:40]
    told = Announcement("c-test", ["192.0.2.5"], 7443, 7444, {port}, {taken})
    announcer = Announcer(Problems())
    announcing = asyncio.create_task(announcer.keep(told))
    assert await announcer.check()
    looking = AsyncZeroconf()
    info = AsyncServiceInfo(HTTPS_TYPE, f"Cluster AI on {{machine}}.{{HTTPS_TYPE}}")
    if await info.async_request(looking.zeroconf, 1500):
        print(info.server == f"{{machine}}.local.", info.parsed_addresses(), info.port)
    await looking.async_close()
    announcing.cancel()
    await asyncio.wait([announcing])
    looking = AsyncZeroconf()
    if await AsyncServiceInfo(HTTPS_TYPE, info.name).async_request(looking.zeroconf, 1500):
        print("is announced still")
    await looking.async_close()

asyncio.run(main())
"""


async def test_the_gateway_s_pages_are_found_and_the_host_s_name_resolves() -> None:
    code, output, errors = await in_a_namespace(LOOK.format(port=443, taken=False), WITH_MULTICAST)
    assert (code, output) == (0, "True ['192.0.2.5'] 443\n"), errors


async def test_beside_avahi_the_host_s_name_is_left_to_it() -> None:
    code, output, errors = await in_a_namespace(LOOK.format(port=443, taken=True), WITH_MULTICAST)
    assert (code, output) == (0, "False ['192.0.2.5'] 443\n"), errors


async def test_without_a_gateway_no_pages_are_announced() -> None:
    assert await in_a_namespace(LOOK.format(port=0, taken=False), WITH_MULTICAST) == (0, "", "")
