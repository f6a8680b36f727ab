"""The fixture that fails a test for what it leaves behind, on tests that leave things behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]

LEAKS = {
    "a child process": "def test_it():\n    import subprocess; subprocess.Popen(['sleep', '60'])",
    "a socket": "kept = []\ndef test_it():\n    import socket; kept.append(socket.create_server(('127.0.0.1', 0)))",
    "an open file": "kept = []\ndef test_it():\n    kept.append(open('/etc/hostname'))",
    "a thread": "def test_it():\n    import threading; threading.Timer(3, print).start()",
    "a temporary file": "def test_it():\n    import tempfile; tempfile.mkdtemp()",
    "a task": "kept = []\nasync def test_it():\n    import asyncio as a; kept.append(a.create_task(a.sleep(60)))",
}


def run_pytest(directory: Path, text: str) -> str:
    """Run one test file under our conftest; return what pytest prints."""
    shutil.copy(TESTS / "conftest.py", directory)
    (directory / "unit").mkdir()
    (directory / "unit/test_case.py").write_text("import support.leaks; support.leaks.SETTLE_SECONDS = 0.3\n" + text)
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--import-mode=importlib", "-o", "asyncio_mode=auto"]
    options += ["-o", f"pythonpath={TESTS} {TESTS.parent / 'common'}", "-o", "timeout=20"]
    options += ["--basetemp", str(directory / "base"), str(directory)]
    environment = {**os.environ, "TMPDIR": str(directory)}
    command = [sys.executable, "-P", "-m", "pytest", f"--rootdir={directory}", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment).stdout


@pytest.mark.parametrize("leak", LEAKS)
def test_a_test_that_leaves_something_behind_fails_and_says_what(leak: str, tmp_path: Path) -> None:
    printed = run_pytest(tmp_path, LEAKS[leak])
    assert "1 passed, 1 error" in printed, printed
    assert "left behind" in printed


def test_what_a_wider_fixture_holds_is_no_leak(tmp_path: Path) -> None:
    printed = run_pytest(
        tmp_path,
        "import pytest, subprocess, socket\n"
        "@pytest.fixture(scope='module')\n"
        "def held():\n"
        "    child, held = subprocess.Popen(['sleep', '60']), socket.create_server(('127.0.0.1', 0))\n"
        "    yield\n"
        "    held.close(); child.kill(); child.wait()\n"
        "def test_one(held): pass\n"
        "async def test_two(held): pass\n",
    )
    assert "2 passed" in printed
    assert "error" not in printed, printed


def test_a_child_of_a_wider_fixture_is_the_same_when_its_command_changes(tmp_path: Path) -> None:
    printed = run_pytest(
        tmp_path,
        "import pytest, subprocess\n"
        "@pytest.fixture(scope='module')\n"
        "def child():\n"
        "    with subprocess.Popen(['sh', '-c', 'echo; read line; exec sleep 0'], stdin=-1, stdout=-1) as child:\n"
        "        child.stdout.readline()\n"
        "        yield child\n"
        "def test_one(child):\n"
        "    import os\n"
        "    child.stdin.write(b'go\\n'); child.stdin.flush()\n"
        "    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)\n",
    )
    assert "1 passed" in printed
    assert "error" not in printed, printed
