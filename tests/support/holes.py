"""Ports behind which nobody answers."""

import contextlib
import socket
import time
from collections.abc import Iterator


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Yield a port whose connections get no answer at all: nobody accepts, and the queue is full."""
    with contextlib.ExitStack() as sockets:
        server = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        time.sleep(0.05)  # until the queue is full
        yield server.getsockname()[1]


@contextlib.contextmanager
def mute() -> Iterator[int]:
    """Yield a port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
