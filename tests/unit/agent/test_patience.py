"""How long the agent waits for a session, and how it spreads its returns."""

import asyncio
import time
from contextlib import suppress

import pytest

from clusterai.pki import CertificateAuthority
from clusterai.rpc import secure_channel
from clusterai_agent.addresses import network_changes
from clusterai_agent.connection import LONGEST_DELAY, reconnect_delay
from clusterai_agent.session import OPEN_SECONDS, open_seconds
from fakes.http import stop_listening


@pytest.mark.parametrize(("attempt", "times"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (1000, 4)])
def test_each_attempt_waits_longer_up_to_a_limit(attempt: int, times: int) -> None:
    """A starved server works on handshakes in order: who gives up early only begins again at the end of its queue."""
    assert open_seconds(attempt) == OPEN_SECONDS * times


def test_returns_are_spread_and_bounded() -> None:
    assert reconnect_delay(1, 0.0) == 0.0
    assert reconnect_delay(50, 1.0) == LONGEST_DELAY
    assert reconnect_delay(50, 1.0, 60.0) == 60.0, "a phone is in no hurry where its server is not"


@pytest.mark.parametrize(
    ("seen", "moved"),
    [
        (["192.0.2.7", "192.0.2.7", "198.51.100.7"], True),
        (["", "", "192.0.2.7"], True),
        (["192.0.2.7", "", ""], False),
        (["192.0.2.7"], False),
    ],
)
async def test_another_network_ends_the_waiting(seen: list[str], moved: bool) -> None:
    async with asyncio.timeout(60):
        addresses = iter(seen)
        within = 1000.0 if moved else 0.2
        assert await network_changes(within, 0.01, lambda: next(addresses, seen[-1])) is moved


async def test_a_handshake_is_given_up_after_its_time() -> None:
    """Whatever else is configured for channels: the server here accepts and says nothing."""

    silent: set[asyncio.Task[None] | None] = set()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.add(asyncio.current_task())
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server, asyncio.timeout(60):
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        authority = CertificateAuthority.create("of the test")
        channel = secure_channel(address, ca_pem=authority.cert_pem, handshake_seconds=0.5)
        begun, state = time.monotonic(), channel.get_state(try_to_connect=True)
        while "TRANSIENT_FAILURE" not in str(state):
            await channel.wait_for_state_change(state)
            state = channel.get_state()
        taken = time.monotonic() - begun
        await channel.close(None)
        await stop_listening(server)
        await asyncio.gather(*(task for task in silent if task is not None))
        assert 0.4 < taken < 15  # the default is 20 s
