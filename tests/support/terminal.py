"""`clusteractl` as a person sees it go on: on a terminal of its own, line by line, and ended with Ctrl-C."""

import asyncio
import os
import pty
import signal
import sys
from asyncio.subprocess import Process

from support.ctl import Ctl

PATIENCE = 60


async def line_of(process: Process) -> str:
    """The next line that the command prints."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return (await process.stdout.readline()).decode()


async def interrupted(process: Process) -> tuple[int, str, str]:
    """Press Ctrl-C and wait for the end."""
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode().strip()


async def on_terminal(ctl: Ctl, *words: str, at: str = "", types: str = "") -> str:
    """Run a command on a terminal of its own, type something at a prompt, and return all that it showed there."""
    leader, follower = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "clusteractl", *words,
        stdin=follower, stdout=follower, stderr=follower, env={**ctl.environment, "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(follower)
    os.set_blocking(leader, False)
    shown = ""
    try:
        async with asyncio.timeout(PATIENCE):
            while (part := _shown(leader)) is not None:
                shown += part
                if at and at in shown:
                    os.write(leader, types.encode())
                    at = ""
                await asyncio.sleep(0.02)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(leader)
    return shown


def _shown(leader: int) -> str | None:
    """What the terminal shows by now; None when its other side is closed, which Linux tells as an I/O error."""
    try:
        return os.read(leader, 4096).decode(errors="replace")
    except BlockingIOError:
        return ""
    except OSError:
        return None
