"""Simulated agents: a process with some hundreds of mTLS sessions that send heartbeats and come back when cut off.

Every `report` line on its standard input is answered with one JSON line of counters; the end of the input stops it.
"""

import argparse
import asyncio
import json
import random
import resource
import ssl
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from clusterai.channel_h2 import client_context
from clusterai.v1.node_pb2 import SessionResponse
from clusterai_agent.connection import reconnect_delay
from clusterai_agent.session import open_seconds
from load.identities import load
from load.messages import heartbeat, hello
from load.stream_client import Stream

# What agents measure is not measured here, so it is made once; its bytes change from one heartbeat to the next.
_HEARTBEATS = tuple(heartbeat(sequence).SerializeToString() for sequence in range(1, 98))


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

    def __init__(
        self, address: str, name: str, context: ssl.SSLContext, interval: float, counters: Counters
    ) -> None:
        self._address, self._name, self._context = address, name, context
        self._interval, self._counters = interval, counters
        self._timer: asyncio.TimerHandle | None = None
        self._nonce = f"{random.getrandbits(64):x}"
        self._stream: Stream | None = None
        self._welcome = asyncio.Event()

    async def run(self, first_delay: float) -> None:
        """Hold a session, again and again, with the real agent's own delays."""
        delay, attempt = first_delay, 0
        while True:
            await asyncio.sleep(delay)
            connected = False
            try:
                async with asyncio.timeout(open_seconds(attempt)):
                    stream = await self._opened()
            except (OSError, TimeoutError) as error:
                self._counters.failures += 1
                self._counters.last_failure = f"{type(error).__name__}: {error}"[:300]
            else:
                connected = True
                await self._talk(stream)
            attempt = 1 if connected else attempt + 1
            delay = reconnect_delay(attempt, random.random())

    async def _opened(self) -> Stream:
        """Return a stream on which we are welcome."""
        self._welcome.clear()
        stream = await Stream.open(self._address, self._context, self._hello(), self._received)
        welcome = asyncio.create_task(self._welcome.wait(), name="welcome")
        try:
            await asyncio.wait((welcome, stream.over), return_when=asyncio.FIRST_COMPLETED)
            if not welcome.done():
                raise ConnectionError(stream.over.result())
        except BaseException:
            stream.close()
            raise
        finally:
            welcome.cancel()
        return stream

    def _hello(self) -> bytes:
        return hello(self._name, self._nonce).SerializeToString()

    def _received(self, response: SessionResponse) -> None:
        match response.WhichOneof("message"):
            case "welcome":
                self._interval = response.welcome.heartbeat_interval_seconds or self._interval
                self._welcome.set()
            case "heartbeat_interval":
                self._interval = response.heartbeat_interval.heartbeat_interval_seconds
                if self._stream is not None:
                    self._schedule_soon(self._stream)

    async def _talk(self, stream: Stream) -> None:
        """Send heartbeats, from a timer rather than a task, until the stream is over."""
        self._counters.connected += 1
        self._counters.sessions += 1
        self._counters.last_connected = time.monotonic()
        self._stream = stream
        self._schedule_soon(stream)
        try:
            await stream.over
        finally:
            self._stream = None
            self._counters.connected -= 1
            stream.close()

    def _schedule_soon(self, stream: Stream) -> None:
        """Send the next heartbeat at any moment of an interval, as the real agent does when it is told another one."""
        if self._timer is not None:
            self._timer.cancel()
        self._schedule(stream, asyncio.get_running_loop().time() + random.random() * self._interval)

    def _schedule(self, stream: Stream, due: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(due, self._beat, stream, due)

    def _beat(self, stream: Stream, due: float) -> None:
        if stream.over.done():
            return
        stream.ping_after_silence()
        self._counters.beats += 1
        stream.send(_HEARTBEATS[self._counters.beats % len(_HEARTBEATS)])
        self._schedule(stream, due + self._interval)


async def simulate(arguments: argparse.Namespace) -> None:
    """Run the agents until the standard input ends."""
    identities = load(arguments.identities, arguments.first, arguments.count)
    counters = Counters()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    tasks = []
    for identity in identities:
        context = client_context(identity.trust)
        agent = Agent(arguments.target, identity.node_id, context, arguments.interval, counters)
        tasks.append(asyncio.create_task(agent.run(random.random() * arguments.ramp), name=identity.node_id))
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
