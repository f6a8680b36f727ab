"""How a program starts, is watched, stops and exits."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clusterai.errors import ClusterAIError, Status
from clusterai.logs import JournalFormatter, configure_logs
from clusterai.program import Notifier, feed_watchdog, run_interruptible, run_program, stop_requested


class OutOfTea(ClusterAIError):
    code, status = "out-of-tea", Status.NOT_FOUND
    message = "there is no {kind} tea"
    hint = "buy {kind} tea"


def ending(error: BaseException) -> int:
    async def main() -> None:
        raise error

    return run_program(main, "clusterai-test")


def test_a_known_error_is_a_sentence_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(OutOfTea(kind="green")) == 3
    assert capsys.readouterr().err == "clusterai-test: there is no green tea\n  buy green tea\n"


def test_a_known_error_in_task_groups_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [OutOfTea(kind="black")])])
    assert ending(group) == 3
    assert capsys.readouterr().err.startswith("clusterai-test: there is no black tea")


@pytest.mark.parametrize("error", [ValueError("odd"), ExceptionGroup("g", [OutOfTea(kind="x"), ValueError("odd")])])
def test_an_unknown_error_is_a_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(error) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "odd" in shown


def test_ctrl_c_is_130() -> None:
    assert ending(KeyboardInterrupt()) == 130


def test_ctrl_c_that_another_thread_takes_wakes_the_loop() -> None:
    def interrupted_here() -> None:
        time.sleep(0.2)  # by then the loop waits for events; if not, it is even easier
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.Event().wait()

    thread, began = threading.Thread(target=interrupted_here), time.monotonic()
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_interruptible(main())
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        thread.join()
    assert time.monotonic() - began < 50, "only the timeout woke the loop"


_WILL_NOT_END = """
import asyncio
from clusterai.program import run_program

async def main():
    print("runs", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("goes on", flush=True)

run_program(main, "x")
"""


def test_a_second_ctrl_c_ends_what_does_not_end() -> None:
    program = [sys.executable, "-c", _WILL_NOT_END]
    environment = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "runs\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "goes on\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == -signal.SIGINT
        finally:
            process.kill()


def test_what_main_returns_is_the_exit_code() -> None:
    async def main() -> int:
        return 7

    assert run_program(main, "x") == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    stop = stop_requested()
    os.kill(os.getpid(), number)
    await asyncio.wait_for(stop.wait(), 60)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]  # noqa: ANN201
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "n"))
        listening.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        yield listening


def test_systemd_hears_each_step(systemd: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("3 nodes\nready")
    notifier.reloading()
    notifier.stopping()
    assert systemd.recv(999) == b"READY=1\nSTATUS=3 nodes ready"
    assert systemd.recv(999).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert systemd.recv(999) == b"STOPPING=1"
    notifier.close()


async def test_the_watchdog_is_fed_twice_a_period(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    notifier = Notifier()
    feeding = asyncio.create_task(feed_watchdog(notifier))
    await asyncio.sleep(0.11)
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    notifier.close()
    systemd.setblocking(False)
    heard = [systemd.recv(99) for _ in range(3)]
    assert heard == [b"WATCHDOG=1"] * 3


async def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
        monkeypatch.delenv(name, raising=False)
    notifier = Notifier()
    notifier.ready()
    await asyncio.wait_for(feed_watchdog(notifier), 60)


def test_every_line_for_the_journal_has_its_priority() -> None:
    record = logging.LogRecord("n", logging.WARNING, "f", 1, "first\nsecond", None, None)
    assert JournalFormatter("%(message)s").format(record) == "<4>first\n<4>second"


def test_logs_go_to_stderr_at_their_level(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    try:
        configure_logs("warning")
        logging.getLogger("part").info("quiet")
        logging.getLogger("part").error("loud")
    finally:
        root.handlers, root.level = handlers, level
    assert capsys.readouterr().err == "<3>part: loud\n"
