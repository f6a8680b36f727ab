"""The compute environment for tests and fixtures that are not coroutines."""

import asyncio
from functools import cache
from pathlib import Path

from support.pool_environment import pool_environment


@cache
def dask_environment() -> Path:
    """Return the environment of the shipped lock; the first call on this machine builds it."""
    return asyncio.run(pool_environment())
