"""A Dask client that measures; runs inside the compute environment, so it imports nothing of ours.

Reads commands on its standard input, one a line, and answers each with a JSON line:

  rate N            run N tiny tasks; tasks per second
  bandwidth MIB     move that much from worker to client and from worker to worker; MiB per second
  stream            begin to submit short tasks all the time
  streamed          stop that; for each worker address the wall clock time at which its last task began
  hold SECONDS N    begin N tasks that sleep; each then says which process it ran in and how often it ran
  held              wait for them
  workers           addresses of the workers that the scheduler knows
"""

import asyncio
import json
import os
import sys
import time
import uuid
from pathlib import Path

from distributed import Client, Future, Security, get_worker, wait


def tiny(number: int) -> int:
    return number + 1


def made(mebibytes: int) -> bytes:
    return os.urandom(1 << 20) * mebibytes


def taken(data: bytes) -> int:
    return len(data)


def short(_: object) -> tuple[str, float]:
    begun = time.time()
    time.sleep(0.02)
    return get_worker().address, begun


def asleep(seconds: float, directory: str, number: int) -> tuple[int, int]:
    with Path(directory, str(number)).open("a") as file:
        file.write("ran\n")
    time.sleep(seconds)
    return os.getpid(), len(Path(directory, str(number)).read_text().splitlines())


class Measurements:
    """One connection to a scheduler, and what is going on there."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.streaming: asyncio.Task[None] | None = None
        self.last_begun: dict[str, float] = {}
        self.sleeping: list[Future] = []

    async def rate(self, count: str) -> float:
        begun = time.perf_counter()
        await self.client.gather(self.client.map(tiny, range(int(count)), pure=False))
        return int(count) / (time.perf_counter() - begun)

    async def bandwidth(self, mebibytes: str) -> dict[str, float]:
        size = int(mebibytes)
        one, *others = sorted((await self.client.scheduler.identity())["workers"])
        data = self.client.submit(made, size, workers=[one], pure=False)
        await wait(data)
        begun = time.perf_counter()
        await data
        found = {"to_client": size / (time.perf_counter() - begun)}
        for other in others[:1]:
            begun = time.perf_counter()
            await self.client.submit(taken, data, workers=[other], allow_other_workers=False, pure=False)
            found["to_worker"] = size / (time.perf_counter() - begun)
        return found

    async def stream(self) -> str:
        self.last_begun.clear()
        self.streaming = asyncio.create_task(self._stream())
        return "streaming"

    async def _stream(self) -> None:
        while True:
            for address, begun in await self.client.gather(self.client.map(short, range(8), key=uuid.uuid4().hex)):
                self.last_begun[address] = max(begun, self.last_begun.get(address, 0.0))

    async def streamed(self) -> dict[str, float]:
        if self.streaming is not None:
            self.streaming.cancel()
            await asyncio.gather(self.streaming, return_exceptions=True)
        return self.last_begun

    async def hold(self, seconds: str, count: str, directory: str) -> int:
        numbers = range(int(count))
        self.sleeping = [self.client.submit(asleep, float(seconds), directory, n, pure=False) for n in numbers]
        return len(self.sleeping)

    async def held(self) -> list[tuple[int, int]]:
        results: list[tuple[int, int]] = await self.client.gather(self.sleeping)
        return results

    async def workers(self) -> list[str]:
        return sorted((await self.client.scheduler.identity())["workers"])


async def main(address: str, ca: str, certificate: str) -> None:
    security = Security(
        tls_ca_file=ca, tls_client_cert=certificate, tls_client_key=certificate, require_encryption=True
    )
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with Client(address, security=security, asynchronous=True, timeout=30) as client:
        measurements = Measurements(client)
        print(json.dumps("connected"), flush=True)
        while line := (await commands.readline()).decode().split():
            print(json.dumps(await getattr(measurements, line[0])(*line[1:])), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
