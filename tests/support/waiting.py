"""Waiting for something to become true, not for a time."""

import asyncio
import socket
import time
from collections.abc import Callable

_STEP_SECONDS = 0.01


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return as soon as the condition holds; fail when it does not within the time, long enough for a busy machine."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        await asyncio.sleep(_STEP_SECONDS)
    raise AssertionError(f"not within {seconds} s: {condition}")


def can_connect(port: int) -> bool:
    """Tell whether somebody listens on the port of the loopback interface."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
