"""The gateway against plain nginx with round-robin, the same TLS and the same log, in the same run."""

import asyncio
import json
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Costs, Figure, median, quantile
from bench.nginx import BackEnd, Load, Plain, running_wrk, wrk, wrk_in_turns
from bench.processes import move, split_processors
from clusterai.models import MIRROR_NAME, gate_name
from clusterai.pki import CertificateAuthority
from support.gates import running_gate, streams
from support.gateway import CLUSTER, Gateway, certificate, routes, running_gateway
from support.holes import black_hole
from support.lua import run_lua
from support.raw_http import ask, read_head, request_bytes

KEY, MODEL = "cak1.aaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa", "llama3.2:3b"
NODE = "n0"
ROUNDS, SECONDS = 9, 2
LATENCY_ROUNDS, LATENCY_SECONDS = 16, 1  # the machine's speed changes within seconds
TURNS_ROUNDS, TURNS_SECONDS = 9, 8
STREAMS, UPDATES, LARGE_NODES = 2000, 20, 100
BLOB_BYTES, COPIES = 4 << 30, 3
_HERE = {"loaded": True, "fit": 1}


@dataclass(frozen=True)
class Pair:
    """One round: plain nginx and the gateway, one after the other."""

    plain: Load
    gateway: Load


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    here, there = split_processors()
    authority = CertificateAuthority.create("bench", CLUSTER)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cai-bench-")))
        back_end = stack.enter_context(BackEnd(directory, authority, _gates_certificate(authority), there))
        gateway = stack.enter_context(running_gateway(directory, authority=authority))
        plain = stack.enter_context(Plain(directory, gateway, back_end.port, f"{NODE}.gate.clusterai", here))
        _place(gateway, here)
        gateway.write_keys({KEY: {"id": "aaaaaaaa"}})
        _use(gateway, routes({NODE: back_end.port}, {MODEL: {NODE: _HERE}}))
        yield from _chats(gateway, plain, there)
        yield from _long_prompts(gateway, plain, there)
        yield from _large_table(gateway, plain, back_end, directory, there)
        yield from _listing(gateway, back_end, there)
        yield from asyncio.run(_updates(gateway, back_end))
        yield from _mirror(gateway, plain, directory)
    yield from _open_streams(authority)


def _gates_certificate(authority: CertificateAuthority) -> bytes:
    """Return key and chain of one back-end that is the gate of all nodes of the large table."""
    return certificate(authority, f"gate/{NODE}", *(gate_name(f"n{number}") for number in range(LARGE_NODES)))


def _place(gateway: Gateway, processors: frozenset[int]) -> None:
    assert gateway.process is not None
    for process_id in (gateway.process.pid, *gateway.worker_ids()):
        move(process_id, processors)


def _use(gateway: Gateway, table: dict[str, Any]) -> None:
    """Give the gateway a table and wait until it uses it."""
    generation = gateway.status()["routes"]["generation"] + 1
    gateway.write_routes({**table, "generation": generation})
    deadline = time.monotonic() + 30
    while gateway.status()["routes"]["generation"] != generation or not gateway.status()["keys"]["generation"]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the table is not used: {gateway.errors()}")
        time.sleep(0.02)


def _prompt(size: int) -> str:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * size}], "stream": False})


def _targets(gateway: Gateway, plain: Plain) -> dict[int, str]:
    """Return where chats go, by worker process: plain nginx, the gateway."""
    ports = {worker: nginx.port for nginx in (plain, gateway) for worker in nginx.worker_ids()}
    return {worker: f"http://127.0.0.1:{port}/api/chat" for worker, port in ports.items()}


def _pairs(gateway: Gateway, plain: Plain, body: str, connections: int, processors: frozenset[int]) -> list[Pair]:
    """Run the load against one and the other, again and again, so that other work on the machine meets both."""
    targets = _targets(gateway, plain)
    pairs = []
    for _ in range(LATENCY_ROUNDS + 1):
        loads = [
            wrk(worker, url, body, KEY, connections=connections, seconds=LATENCY_SECONDS, processors=processors)
            for worker, url in targets.items()
        ]
        pairs.append(_checked(gateway, loads))
    return pairs[1:]  # the first one warmed up


def _checked(gateway: Gateway, loads: list[Load]) -> Pair:
    pair = Pair(*loads)
    if pair.gateway.failed:
        raise RuntimeError(f"requests failed: {gateway.errors()}")
    return pair


def _in_turns(gateway: Gateway, plain: Plain, processors: frozenset[int]) -> list[Pair]:
    """Return pairs of which CPU and rates count: both were measured within the same seconds."""
    targets = _targets(gateway, plain)
    pairs = [
        _checked(
            gateway,
            wrk_in_turns(targets, _prompt(1000), KEY, connections=32, seconds=TURNS_SECONDS, processors=processors),
        )
        for _ in range(TURNS_ROUNDS + 1)
    ]
    return pairs[1:]


def _added(pairs: list[Pair], name: str) -> float:
    return median([getattr(pair.gateway, name) - getattr(pair.plain, name) for pair in pairs])


def _cpu_ratios(pairs: list[Pair]) -> tuple[float, str]:
    """Return how many times plain nginx's CPU the gateway takes, the median of the rounds, and all of them as text."""
    ratios = [pair.gateway.cpu_microseconds / pair.plain.cpu_microseconds for pair in pairs]
    return median(ratios), "rounds: " + ", ".join(f"{ratio:.2f}" for ratio in ratios)


def _chats(gateway: Gateway, plain: Plain, processors: frozenset[int]) -> Iterator[Figure]:
    pairs = _in_turns(gateway, plain, processors)
    ratio, rounds = _cpu_ratios(pairs)
    alone = median([pair.plain.cpu_microseconds for pair in pairs])
    detail = f"{ratio:.2f} times plain nginx's {alone:.1f} µs; {rounds}"
    yield Figure("CPU a request beyond plain nginx", _added(pairs, "cpu_microseconds"), "µs", 15, detail=detail)
    share = median([pair.gateway.per_second / pair.plain.per_second for pair in pairs])
    rate = median([pair.gateway.per_second for pair in pairs])
    yield Figure("requests a second, share of plain nginx", share, "", 0.72, at_least=True, detail=f"{rate:.0f}/s")
    pairs = _pairs(gateway, plain, _prompt(1000), 32, processors)
    yield Figure("added to the median", _added(pairs, "p50_milliseconds"), "ms", 0.5)
    yield Figure("added to the 99th percentile", _added(pairs, "p99_milliseconds"), "ms", 3)


def _long_prompts(gateway: Gateway, plain: Plain, processors: frozenset[int]) -> Iterator[Figure]:
    pairs = _pairs(gateway, plain, _prompt(256_000), 1, processors)
    base = median([pair.plain.p50_milliseconds for pair in pairs])
    added = _added(pairs, "p50_milliseconds")
    yield Figure("prompts of 256 kB, added to the median", added, "ms", 2, detail=f"plain {base:.2f} ms")


def _large(port: int) -> dict[str, Any]:
    """Return a table of 100 nodes, all of them the one back-end, with 50 models on each."""
    nodes = {f"n{number}": port for number in range(LARGE_NODES)}
    models = {f"m{number}:latest": dict.fromkeys(nodes, _HERE) for number in range(49)}
    return routes(nodes, {**models, MODEL: dict.fromkeys(nodes, _HERE)})


def _large_table(
    gateway: Gateway, plain: Plain, back_end: BackEnd, directory: Path, processors: frozenset[int]
) -> Iterator[Figure]:
    script = """
        local choose, routes = require "clusterai.choose", assert(require("clusterai.tables").routes(given.text))
        local counts = {}
        for number = 0, 99 do counts["n" .. number] = number % 7 end
        local function busy(node) return counts[node] or 0 end
        local rounds, begun = 2000, os.clock()
        for round = 1, rounds do
            for _, name in ipairs(routes.names) do
                local chosen = choose.node(routes.models[name], busy, {}, nil)
                counts[chosen.id] = counts[chosen.id] + 1
            end
        end
        return (os.clock() - begun) / rounds / #routes.names * 1e6"""
    home = directory / "lua"
    home.mkdir()
    taken = [run_lua(home, script, {"text": json.dumps(_large(back_end.port))}) for _ in range(ROUNDS)]
    yield Figure("choice among 100 nodes × 50 models", median(taken), "µs", 20)
    _use(gateway, _large(back_end.port))
    ratio, rounds = _cpu_ratios(_in_turns(gateway, plain, processors))
    yield Figure("CPU a request with that table, ratio to plain", ratio, "x", detail=rounds)


def _listing(gateway: Gateway, back_end: BackEnd, processors: frozenset[int]) -> Iterator[Figure]:
    """Half of the nodes swallow every connection, and chats wait for them while models are listed."""
    with ExitStack() as stack:
        hole = stack.enter_context(black_hole())
        nodes = {f"n{number}": hole if number % 2 else back_end.port for number in range(LARGE_NODES)}
        table = routes(nodes, {f"m{number}:latest": dict.fromkeys(nodes, _HERE) for number in range(50)})
        _use(gateway, table)
        url = f"http://127.0.0.1:{gateway.port}"
        body = json.dumps({"model": "m1:latest"})
        chats = stack.enter_context(running_wrk(f"{url}/api/chat", body, KEY, connections=8, processors=processors))
        (worker,) = gateway.worker_ids()
        loads = [
            wrk(worker, f"{url}/api/tags", "", KEY, connections=4, seconds=SECONDS, processors=processors)
            for _ in range(ROUNDS)
        ]
        assert chats.poll() is None
    failing = sum(node["failing"] for node in gateway.status()["nodes"].values())
    yield Figure(
        "model list, 99th percentile, half the nodes dead",
        median([load.p99_milliseconds for load in loads]),
        "ms",
        50,
        detail=f"{failing} nodes marked",
    )


async def _updates(gateway: Gateway, back_end: BackEnd) -> list[Figure]:
    """Replace the large table again and again; until a new model's name is known."""
    taken = []
    for number in range(UPDATES):
        table = _large(back_end.port)
        table["models"][f"new{number}:latest"] = {"digest": "", "nodes": {}, "reason": "", "retry_after_seconds": 0}
        generation = gateway.status()["routes"]["generation"] + 1
        gateway.write_routes({**table, "generation": generation})
        begun = time.monotonic()
        while (await ask(gateway.port, "/api/chat", {"model": f"new{number}"}, key=KEY)).status == 404:
            await asyncio.sleep(0.002)
        taken.append(time.monotonic() - begun)
    worst = max(taken)
    return [
        Figure("a new table of 100 × 50 is used after", quantile(taken, 0.95), "s", 0.5, detail=f"worst {worst:.2f} s")
    ]


def _mirror(gateway: Gateway, plain: Plain, directory: Path) -> Iterator[Figure]:
    """Fetch a blob with curl over TLS with a client certificate, from both in turn."""
    name = "sha256-" + "ab" * 32
    root = directory / "models"
    (root / "blobs").mkdir(parents=True)
    with (root / "blobs" / name).open("wb") as blob:
        blob.truncate(BLOB_BYTES)
    plain.serve(root)
    _use(gateway, routes({}, {}, mirror={"root": str(root)}))
    (directory / "node.pem").write_bytes(certificate(gateway.authority, "gate/pi4", "pi4.gate.clusterai"))
    ratios, speeds = [], []
    for _ in range(COPIES + 1):
        rates = [_curl(gateway, directory, port, f"/blobs/{name}") for port in (plain.tls_port, gateway.mirror_port)]
        ratios.append(rates[1] / rates[0])
        speeds.append(rates[1])
    detail = f"{median(speeds[1:]) / 1e6:.0f} MB/s"
    yield Figure("mirror, share of plain nginx with TLS", median(ratios[1:]), "", 0.8, at_least=True, detail=detail)


def _curl(gateway: Gateway, directory: Path, port: int, path: str) -> float:
    """Return bytes per second."""
    command = ["curl", "-sSf", "-o", "/dev/null", "-w", "%{speed_download}", "--cert", str(directory / "node.pem")]
    command += ["--cacert", str(gateway.state / "cluster-ca.pem")]
    command += ["--resolve", f"{MIRROR_NAME}:{port}:127.0.0.1", f"https://{MIRROR_NAME}:{port}{path}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return float(ended.stdout)


def _open_streams(authority: CertificateAuthority) -> Iterator[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="cai-bench-") as name,
        running_gateway(Path(name), authority=authority) as gateway,
    ):
        gateway.write_keys({KEY: {"id": "aaaaaaaa"}})
        yield asyncio.run(_hold_streams(gateway))


async def _hold_streams(gateway: Gateway) -> Figure:
    """Open many streams over TLS, to a gate over TLS; each says something every 5 s."""
    behaviour = streams(120, 5.0)
    client = ssl.create_default_context(cadata=gateway.authority.cert_pem.decode())
    request = request_bytes("/api/chat", _prompt(1000).encode(), headers={"x-api-key": KEY})
    async with running_gate(NODE, gateway.authority, behaviour) as gate:
        await asyncio.to_thread(_use, gateway, routes({NODE: gate.port}, {MODEL: {NODE: _HERE}}))
        (worker,) = gateway.worker_ids()
        before = Costs.of(worker).rss_bytes
        writers: list[asyncio.StreamWriter] = []
        limit = asyncio.Semaphore(16)

        async def one() -> None:
            """A gate in Python shares its processor with all of this: when it is late, the gateway says 503."""
            deadline, status = time.monotonic() + 300, 503
            while status == 503 and time.monotonic() < deadline:
                async with limit:
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", gateway.tls_port, ssl=client, server_hostname="localhost"
                    )
                    writers.append(writer)
                    writer.write(request)
                    status = (await read_head(reader)).status
                await asyncio.sleep(0 if status == 200 else 1)
            assert status == 200

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(STREAMS):
                    tasks.create_task(one())
            await asyncio.sleep(2)
            in_flight = (await asyncio.to_thread(gateway.status))["nodes"][NODE]["in_flight"]
            held = Costs.of(worker).rss_bytes - before
        finally:
            for writer in writers:
                writer.transport.abort()
    if in_flight != STREAMS:
        raise RuntimeError(f"only {in_flight} of {STREAMS} streams are open: {gateway.errors()}")
    return Figure("memory of an open stream, 2,000 on one worker", held / STREAMS / 1000, "kB", 120)
