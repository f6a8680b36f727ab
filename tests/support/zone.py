"""The time zone of this process, for tests that print times."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_utc() -> Iterator[None]:
    """Print times in UTC inside the block."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
