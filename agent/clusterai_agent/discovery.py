"""Finding the server: an mDNS browse in a process of its own, so that zeroconf never stays in the agent's memory.

Everything that multicast brings is written by strangers: it is bounded, checked, and only ever a hint where to dial.
"""

import asyncio
import contextlib
import json
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterai.termux import is_android
from clusterai_agent.addresses import ENROLLMENT_PORT, Address, parse_all, way_out

SERVICE_TYPE = "_clusterai._tcp.local."
_SERVERS, _ADDRESSES = 16, 8  # of these at most so many are looked at
_OUTPUT_LIMIT = 1 << 16
_BROWSE_SECONDS = 4.0  # answers to a question asked a second ago by another are held back for one (RFC 6762, 6)
_LISTENING_SHARE = 0.7  # of the time; the rest is for asking those that were heard
_GRACE_SECONDS = 5.0  # for starting and ending the helper
_CLUSTER_ID = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True)
class FoundServer:
    """A server that some machine on the network claims to be."""

    cluster_id: str
    addresses: tuple[str, ...]  # HOST:PORT of the mTLS port
    enrollment_port: int

    def enrollment_addresses(self) -> list[Address]:
        """Where to join this server."""
        return [Address(address.host, self.enrollment_port) for address in parse_all(self.addresses, 0)]


async def browse(seconds: float = _BROWSE_SECONDS) -> list[FoundServer]:
    """Return the servers that announce themselves; none where there is no multicast or no zeroconf."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "clusterai_agent.discovery", str(seconds),
        stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env={**os.environ, "PYTHONPATH": path},
    )
    try:
        async with asyncio.timeout(seconds + _GRACE_SECONDS):
            assert process.stdout is not None
            output = await process.stdout.read(_OUTPUT_LIMIT)
            await process.wait()
    except TimeoutError:
        return []
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return parse_found(output)


def parse_found(output: bytes) -> list[FoundServer]:
    """Return what the helper printed, checked again; nothing of what does not look right."""
    try:
        entries = json.loads(output)
    except (ValueError, RecursionError):
        return []
    if not isinstance(entries, list):
        return []
    found = [server for entry in entries[:_SERVERS] if (server := _checked(entry))]
    return list(dict.fromkeys(found))


def of_cluster(found: Iterable[FoundServer], cluster_id: str) -> list[Address]:
    """Return where servers of this cluster say they are."""
    return parse_all([text for server in found if server.cluster_id == cluster_id for text in server.addresses], 0)


def _checked(entry: object) -> FoundServer | None:
    if not isinstance(entry, dict):
        return None
    cluster_id, addresses, port = entry.get("cluster_id"), entry.get("addresses"), entry.get("enrollment_port")
    if not isinstance(cluster_id, str) or not _CLUSTER_ID.fullmatch(cluster_id):
        return None
    if not isinstance(addresses, list) or type(port) is not int or not 0 < port < 1 << 16:
        return None
    usable = [a for a in parse_all([t for t in addresses[:_ADDRESSES] if isinstance(t, str)], 0) if a.port]
    return FoundServer(cluster_id, tuple(map(str, usable)), port) if usable else None


def describe(properties: Mapping[Any, Any], addresses: Iterable[str], port: int) -> dict[str, Any]:
    """Return one announcement as the helper prints it, whatever its text records hold."""
    texts = {_bounded(key): _bounded(value) for key, value in list(properties.items())[:16]}
    enroll = texts.get("enroll", "")
    return {
        "cluster_id": texts.get("cluster", ""),
        "addresses": [str(Address(host, port)) for host in list(addresses)[:_ADDRESSES]],
        "enrollment_port": int(enroll) if re.fullmatch(r"[0-9]{1,5}", enroll) else ENROLLMENT_PORT,
    }


def _bounded(value: Any) -> str:
    return value[:256].decode("utf-8", "replace") if isinstance(value, bytes) else ""


async def _browse_here(seconds: float) -> list[dict[str, Any]]:
    """Browse with zeroconf, in this process: only the helper does."""
    from zeroconf import DNSQuestionType, ServiceBrowser, ServiceStateChange
    from zeroconf.asyncio import AsyncServiceInfo

    names: set[str] = set()

    def heard(zeroconf: Any, service_type: str, name: str, state_change: ServiceStateChange) -> None:  # noqa: ARG001
        if state_change is not ServiceStateChange.Removed and len(names) < _SERVERS:
            names.add(name)

    # A phone hears no multicast (Android filters it), so answers to it alone are asked for (QU, RFC 6762, 5.4).
    kind = DNSQuestionType.QU if is_android() else None
    async with _opened() as zeroconf:
        browser = ServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[heard], question_type=kind)
        await asyncio.sleep(seconds * _LISTENING_SHARE)
        infos = [AsyncServiceInfo(SERVICE_TYPE, name) for name in sorted(names)]
        left_ms = seconds * (1 - _LISTENING_SHARE) * 1000
        await asyncio.gather(*(info.async_request(zeroconf.zeroconf, left_ms, kind) for info in infos))
        await asyncio.to_thread(browser.cancel)
        return [describe(info.properties, info.parsed_scoped_addresses(), info.port) for info in infos if info.port]


def _opened() -> Any:
    """Return zeroconf on all interfaces; where the kernel hides them (Android), on the one that leads out."""
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    try:
        return AsyncZeroconf()
    except PermissionError:
        return AsyncZeroconf(interfaces=[way_out()], ip_version=IPVersion.V4Only)


def main() -> int:
    """Print what was found as JSON; an empty list where this machine has no multicast."""
    seconds = min(30.0, max(0.2, float(sys.argv[1]))) if len(sys.argv) > 1 else _BROWSE_SECONDS
    try:
        found = asyncio.run(_browse_here(seconds))
    except (OSError, ImportError) as error:
        print(f"no discovery: {error}", file=sys.stderr)
        found = []
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
