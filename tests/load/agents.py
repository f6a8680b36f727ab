"""Simulated agents: a process with some hundreds of mTLS sessions that send heartbeats and come back when cut off.

Every `report` line on its standard input is answered with one JSON line of counters; the end of the input stops it.
"""

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from clusterai.rpc import secure_channel
from clusterai.v1.node_pb2 import SessionResponse
from clusterai.v1.node_pb2_grpc import NodeServiceStub
from clusterai_agent.connection import reconnect_delay
from clusterai_agent.session import OPEN_SECONDS
from load.identities import NodeIdentity, load
from load.messages import heartbeat, hello

_BROKEN = (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, ConnectionError)


@dataclass
class Counters:
    """What one process has done so far. Times are of the monotonic clock."""

    connected: int = 0
    beats: int = 0
    sessions: int = 0
    failures: int = 0
    last_connected: float = 0.0
    last_failure: str = ""
    cpu_seconds: float = 0.0


class Agent:
    """One simulated agent."""

    def __init__(self, address: str, identity: NodeIdentity, interval: float, counters: Counters) -> None:
        self._address, self._identity, self._interval, self._counters = address, identity, interval, counters
        self._nonce = f"{random.getrandbits(64):x}"

    async def run(self, first_delay: float) -> None:
        """Hold a session, again and again, with the real agent's own delays."""
        delay, attempt = first_delay, 0
        while True:
            await asyncio.sleep(delay)
            try:
                connected = await self._session()
            except _BROKEN as error:
                connected = False
                self._counters.failures += 1
                self._counters.last_failure = f"{type(error).__name__}: {error}"[:300]
            attempt = 1 if connected else attempt + 1
            delay = reconnect_delay(attempt, random.random())

    async def _session(self) -> bool:
        """Return once a session that stood is over; raise when none began."""
        own = self._identity
        keys = {"chain_pem": own.chain.encode(), "key_pem": own.key.encode()}
        # Its end closes the channel. `close` would look at each task of the process, and here that is a thousand tasks
        # for each of 500 channels; a real agent has but one channel.
        stub: Any = NodeServiceStub(secure_channel(self._address, ca_pem=own.ca.encode(), **keys))
        async with asyncio.timeout(OPEN_SECONDS):
            call = stub.Session()
            await call.write(hello(own.node_id, self._nonce))
            response = await call.read()
        if not isinstance(response, SessionResponse):
            raise ConnectionError(f"refused: {await call.code()} {await call.details()}")
        if response.WhichOneof("message") != "welcome":
            raise ConnectionError(f"not welcome: {response}")
        self._welcomed()
        try:
            await self._talk(call)
        finally:
            self._counters.connected -= 1
            call.cancel()
        return True

    def _welcomed(self) -> None:
        self._counters.connected += 1
        self._counters.sessions += 1
        self._counters.last_connected = time.monotonic()

    async def _talk(self, call: Any) -> None:
        beats = asyncio.create_task(self._beat(call), name="beats")
        try:
            while True:
                response = await call.read()
                if not isinstance(response, SessionResponse) or response.WhichOneof("message") == "farewell":
                    return
        except grpc.aio.AioRpcError:
            return
        finally:
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)

    async def _beat(self, call: Any) -> None:
        await asyncio.sleep(random.random() * self._interval)
        due, sequence = time.monotonic(), 0
        while True:
            sequence += 1
            await call.write(heartbeat(sequence))
            self._counters.beats += 1
            due += self._interval
            await asyncio.sleep(max(due - time.monotonic(), 0))


async def simulate(arguments: argparse.Namespace) -> None:
    """Run the agents until the standard input ends."""
    identities = load(arguments.identities, arguments.first, arguments.count)
    counters = Counters()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    agents = [Agent(arguments.target, identity, arguments.interval, counters) for identity in identities]
    tasks = [
        asyncio.create_task(agent.run(random.random() * arguments.ramp), name=identity.node_id)
        for agent, identity in zip(agents, identities, strict=True)
    ]
    while await commands.readline():
        counters.cpu_seconds = time.process_time()
        print(json.dumps(asdict(counters)), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--identities", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--ramp", type=float, default=1.0, help="seconds over which the first connections spread")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(simulate(parser.parse_args()))


if __name__ == "__main__":
    main()
