"""Waiting for something to become true, not for a time."""

import asyncio
from collections.abc import Callable

_STEP_SECONDS = 0.01


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Return as soon as the condition holds; fail when it does not within the time."""
    for _ in range(round(seconds / _STEP_SECONDS)):
        if condition():
            return
        await asyncio.sleep(_STEP_SECONDS)
    raise AssertionError(f"not within {seconds} s: {condition}")
