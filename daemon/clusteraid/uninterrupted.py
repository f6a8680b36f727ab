"""Changes of disk and memory that belong together, whoever stops waiting for them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run the work to its end even when the caller is cancelled (a peer hung up), then pass the cancellation on."""
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        await asyncio.gather(task, return_exceptions=True)  # its error has nobody to hear it
        raise asyncio.CancelledError
    return task.result()
