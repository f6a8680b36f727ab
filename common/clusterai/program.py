"""The life of a program: ready, watched, asked to stop, and how it exits."""

import asyncio
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from clusterai.errors import ClusterAIError

Result = TypeVar("Result")
INTERRUPTED = 130


class Notifier:
    """Tells systemd how the program is; does nothing where systemd does not listen (no NOTIFY_SOCKET)."""

    def __init__(self) -> None:
        self._systemd: Any = None
        if os.environ.get("NOTIFY_SOCKET"):
            import sdnotify  # clusteractl and keytool do without it

            self._systemd = sdnotify.SystemdNotifier()

    def ready(self, status: str = "") -> None:
        """The start, or a reload, is complete."""
        self._send("READY=1", *([f"STATUS={status}"] if status else []))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """The program takes itself down."""
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it (sd_notify(3) wants the monotonic time with it)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def watchdog(self) -> None:
        """The event loop runs."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        socket = getattr(self._systemd, "socket", None)
        if socket is not None:
            socket.close()
        self._systemd = None

    def _send(self, *lines: str) -> None:
        if self._systemd is not None:
            self._systemd.notify("\n".join(line.replace("\n", " ") for line in lines))


async def feed_watchdog(notifier: Notifier) -> None:
    """Feed systemd's watchdog from the event loop at half its period; return at once when there is none."""
    period = int(os.environ.get("WATCHDOG_USEC", "0"))
    if not period or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        notifier.watchdog()
        await asyncio.sleep(period / 2e6)


def stop_requested() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set. Call it inside the loop, before `Notifier.ready`."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def run_interruptible(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end; Ctrl-C cancels it and comes out as KeyboardInterrupt, a second one ends the process.

    `asyncio.run` alone looks for signals between two bytecodes. One that comes just before the loop waits for events,
    or that the kernel gives to another thread, would wake nobody; the loop's own handler has a pipe that wakes it.
    """
    interrupted = False
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(work)

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # an end that hangs can be ended still
            task.cancel()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            if interrupted:
                raise KeyboardInterrupt from None
            raise


def run_program(main: Callable[[], Coroutine[Any, Any, int | None]], name: str) -> int:
    """Run the program and return its exit code: what `main` returned, or the code of the error that ended it.

    A known error is shown as a sentence and a hint; only an unknown one as a traceback.
    """
    try:
        return run_interruptible(main()) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the exit boundary
        return _reported(error, name)


def _reported(error: Exception, name: str) -> int:
    """Show the error on stderr and return the exit code."""
    leaves = tuple(_leaves(error))
    known = [leaf for leaf in leaves if isinstance(leaf, ClusterAIError)]
    if len(known) < len(leaves):
        traceback.print_exception(error)
        return 1
    print(f"{name}: {known[0]}", file=sys.stderr)
    if known[0].advice:
        print(f"  {known[0].advice}", file=sys.stderr)
    return known[0].status.exit_code


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, however deep; the error itself when it is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
