"""Python code in a network namespace of its own, with multicast or without."""

import asyncio
import sys

from support.tree import python_path

WITH_MULTICAST = (
    "ip link set lo up && ip link add v0 type veth peer name v1 && ip addr add 192.0.2.5/24 dev v0"
    " && ip link set v0 up && ip link set v1 up && "
)


async def in_a_namespace(code: str, prepare: str = "") -> tuple[int, str, str]:
    """Run Python code in a user and network namespace that has nothing but loopback."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "--net", "sh", "-c", f'{prepare}exec "$0" -P -c "$1"'),
        *(sys.executable, code),
        env=python_path(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, output.decode(), errors.decode()
