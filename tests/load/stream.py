"""A bare grpc.aio client that sends the same message again and again over one mTLS stream: the agent's baseline.

A line on its standard input is answered with the number of messages sent; its end stops the client.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from clusterai.credentials import load_credentials
from clusterai.rpc import secure_channel
from clusterai.v1.node_pb2 import SessionRequest
from clusterai.v1.node_pb2_grpc import NodeServiceStub
from load.messages import hello


async def stream(arguments: argparse.Namespace) -> None:
    """Open the stream and send until the standard input ends."""
    own, message = load_credentials(arguments.certificate), SessionRequest.FromString(bytes.fromhex(arguments.message))
    keys: dict[str, Any] = {"chain_pem": own.chain_pem, "key_pem": own.key_pem}
    async with secure_channel(arguments.target, ca_pem=arguments.ca.read_bytes(), **keys) as channel:
        stub: Any = NodeServiceStub(channel)
        call = stub.Session()
        await call.write(hello("bare", "bare"))
        await call.read()
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await call.write(message)
                sent += 1
                await asyncio.sleep(arguments.interval)

        sending = asyncio.create_task(send(), name="sending")
        await _answer(lambda: sent)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        call.cancel()


async def _answer(count: Any) -> None:
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while await commands.readline():
        print(count(), flush=True)


def main() -> None:
    """Parse the arguments and send."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--certificate", type=Path, required=True, help="key and chain in one PEM file")
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--message", required=True, help="the message in hex")
    parser.add_argument("--interval", type=float, default=1.0)
    asyncio.run(stream(parser.parse_args()))


if __name__ == "__main__":
    main()
