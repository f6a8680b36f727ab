"""`scripts/bench [NAME…]`: runs benchmarks, prints each figure with its limit; exit code 1 when a limit is not kept."""

import argparse
import os
import platform
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import bench.agent
import bench.daemon
import bench.dask
import bench.failover
import bench.gateway
import bench.models
import bench.phone
import bench.unplugged
from bench.measure import Figure, as_json

BENCHMARKS: dict[str, Callable[[], Iterator[Figure]]] = {
    "agent": bench.agent.measure,
    "daemon": bench.daemon.measure,
    "daemon-newest": bench.daemon.measure_newest,
    "failover": bench.failover.measure,
    "dask": bench.dask.measure,
    "gateway": bench.gateway.measure,
    "models": bench.models.measure,
    "phone": bench.phone.measure,
    "unplugged": bench.unplugged.measure,
}
NEED_ROOT = {"phone", "unplugged"}  # the simulated phone has namespaces and users of its own


def main() -> int:
    """Parse the arguments, run, return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; choose of: {', '.join(BENCHMARKS)}")
    names = arguments.names or list(BENCHMARKS)
    if os.geteuid() != 0 and (refused := NEED_ROOT.intersection(names)):
        parser.error(f"{', '.join(refused)} needs root: run it with sudo, or name the others")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped on the way out
    figures = run(names)
    if arguments.json:
        arguments.json.write_text(as_json(figures))
    return 0 if all(figure.kept for figure in figures) else 1


def run(names: list[str]) -> list[Figure]:
    """Run the benchmarks in order and print each figure as soon as it is there."""
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, load {load}", flush=True)
    figures = []
    for name in names:
        print(name, flush=True)
        for figure in BENCHMARKS[name]():
            print(figure, flush=True)
            figures.append(figure)
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
