"""TLS handshakes of the daemon: it resumes no session, and its settings of OpenSSL are its own alone."""

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clusterai.channel import Trust
from clusterai.channel_h2 import client_context
from clusterai.remote import SERVER_NAME, split_address
from support.killable import killable_daemon
from support.sim_node import sim_node
from support.tree import ROOT, python_path

# What HTTP/2 begins with: the preface and empty settings. Tickets come with or before the answer.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def resumes(address: str, trust: Trust) -> bool:
    """Tell whether a second connection resumes the session of the first, which is open still."""
    context = client_context(trust)
    with connected(address, context) as first, connected(address, context, first.session) as second:
        return second.session_reused is True


@contextmanager
def connected(
    address: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> Iterator[ssl.SSLSocket]:
    """Yield a connection that has read what the server says first."""
    with (
        socket.create_connection(split_address(address, 0), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME, session=session) as connection,
    ):
        connection.sendall(_PREFACE)
        assert connection.recv(9)  # its settings
        yield connection


def in_a_fresh_interpreter(statements: str, before: str = "") -> str:
    """Return what statements print after `openssl.load()`."""
    program = f"from clusteraid import openssl\n{before}\nopenssl.load()\nimport os, ssl\n{statements}"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=ROOT, env=python_path(), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize("own_file", [False, True])
async def test_no_session_is_resumed_unless_the_administrator_s_own_file_lets_it(
    *, own_file: bool, tmp_path: Path
) -> None:
    environment = {"OPENSSL_CONF": "/etc/ssl/openssl.cnf"} if own_file else {}
    async with killable_daemon(tmp_path, environment=environment) as daemon, sim_node(daemon, "pi4") as pi:
        own = Trust(pi.enrolled.ca_pem, pi.enrolled.chain_pem, pi.enrolled.key_pem)
        for address, trust in (
            (pi.enrolled.server_addresses[0], own), (await daemon.enrollment_address(), Trust(own.ca_pem))
        ):
            assert await asyncio.to_thread(resumes, address, trust) is own_file


def test_the_machine_s_own_settings_hold_on() -> None:
    shown = "print([cipher['name'] for cipher in ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).get_ciphers()])"
    program = [sys.executable, "-c", f"import ssl; {shown}"]
    plain = subprocess.run(program, capture_output=True, text=True, check=True)
    assert in_a_fresh_interpreter(shown) == plain.stdout.strip()


def test_children_do_not_inherit_the_file() -> None:
    assert in_a_fresh_interpreter("print('OPENSSL_CONF' in os.environ)") == "False"


def test_a_file_that_openssl_does_not_take_stops_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "openssl.cnf"
    broken.write_text(".include /nowhere/openssl.cnf\n[nonsense\n")
    before = f"import pathlib; openssl._FILE = pathlib.Path({str(broken)!r})"
    shown = "print(ssl.create_default_context().protocol.name, os.environ.get('OPENSSL_CONF'))"
    assert in_a_fresh_interpreter(shown, before) == "PROTOCOL_TLS_CLIENT None"
