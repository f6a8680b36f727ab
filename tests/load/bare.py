"""A bare grpc.aio server of the session stream, with the daemon's TLS and options and nothing behind: the baseline.

Prints its port, and serves until its standard input ends. Each line there is answered with a JSON line: how many
heartbeats came, and the latest message.
"""

import argparse
import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from clusterai.rpc import SERVER_OPTIONS
from clusterai.v1.node_pb2 import SessionRequest, SessionResponse, Welcome
from clusterai.v1.node_pb2_grpc import NodeServiceServicer, add_NodeServiceServicer_to_server


class BareSessions(NodeServiceServicer):
    """Welcomes everybody and reads what they send."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self.beats = 0
        self.latest = SessionRequest()

    async def Session(self, requests: AsyncIterator[SessionRequest], context: Any) -> AsyncIterator[SessionResponse]:
        """Answer the hello, then read; only the latest is kept."""
        hello = await anext(requests)
        name = hello.hello.facts.hostname
        yield SessionResponse(welcome=Welcome(node_id=name, heartbeat_interval_seconds=self._interval, epoch=1))
        async for request in requests:
            self.beats += 1
            self.latest = request


async def serve(arguments: argparse.Namespace) -> None:
    """Serve on the loopback interface."""
    key, chain = arguments.certificate.read_bytes(), arguments.certificate.read_bytes()
    credentials = grpc.ssl_server_credentials(
        [(key, chain)], root_certificates=arguments.ca.read_bytes(), require_client_auth=True
    )
    server = grpc.aio.server(options=SERVER_OPTIONS)
    sessions = BareSessions(arguments.interval)
    add_NodeServiceServicer_to_server(sessions, server)
    port = server.add_secure_port(f"127.0.0.1:{arguments.port}", credentials)
    await server.start()
    print(port, flush=True)
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while await commands.readline():
        print(json.dumps({"beats": sessions.beats, "latest": sessions.latest.SerializeToString().hex()}), flush=True)
    await server.stop(0)


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", type=Path, required=True, help="key and chain in one PEM file")
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
