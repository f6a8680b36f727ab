"""TLS handshakes of the daemon: no session tickets, and its settings of OpenSSL are its own alone."""

import asyncio
import socket
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from clusterai.channel import Trust
from clusterai.channel_h2 import client_context
from clusterai.remote import SERVER_NAME, split_address
from clusteraid import openssl
from support.killable import killable_daemon
from support.sim_node import sim_node
from support.tree import ROOT, python_path

# What HTTP/2 begins with: the preface and empty settings. Tickets come before the answer.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
LEAST_TICKET_BYTES = 400  # less than a certificate of ours
NO_TICKETS = "bool(made.options & ssl.OP_NO_TICKET)"


def sent_after_handshake(address: str, trust: Trust) -> int:
    """Return how many bytes the server sends from when it has the client's certificate until its HTTP/2 settings."""
    received, unsent = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = client_context(trust).wrap_bio(received, unsent, server_hostname=SERVER_NAME)
    with socket.create_connection(split_address(address, 0), timeout=60) as plain:
        while not finished(connection):
            plain.sendall(unsent.read())
            received.write(plain.recv(1 << 16))
        connection.write(_PREFACE)
        plain.sendall(unsent.read())
        total = 0
        while True:
            data = plain.recv(1 << 16)
            assert data, "it closed the connection"
            total += len(data)
            received.write(data)
            with suppress(ssl.SSLWantReadError):
                assert connection.read(9)
                return total


def finished(connection: ssl.SSLObject) -> bool:
    with suppress(ssl.SSLWantReadError):
        connection.do_handshake()
        return True
    return False


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
async def test_there_are_no_tickets_unless_the_administrator_s_own_file_wants_them(
    *, own_file: bool, tmp_path: Path
) -> None:
    """There are two. Each holds the session, the client's certificate in it, encrypted; otherwise it is a number."""
    environment = {"OPENSSL_CONF": "/etc/ssl/openssl.cnf"} if own_file else {}
    async with killable_daemon(tmp_path, environment=environment) as daemon, sim_node(daemon, "pi4") as pi:
        trust = Trust(pi.enrolled.ca_pem, pi.enrolled.chain_pem, pi.enrolled.key_pem)
        sent = await asyncio.to_thread(sent_after_handshake, pi.enrolled.server_addresses[0], trust)
        assert (sent > 2 * LEAST_TICKET_BYTES) is own_file, sent


def test_the_machine_s_own_settings_hold_on(tmp_path: Path) -> None:
    machine, ours = tmp_path / "machine.cnf", tmp_path / "ours.cnf"
    machine.write_text("[system_default_sect]\nMinProtocol = TLSv1.3\nOptions = PrioritizeChaCha\n")
    text = openssl._FILE.read_text()
    assert str(openssl._INCLUDED) in text
    ours.write_text(text.replace(str(openssl._INCLUDED), str(machine)))
    shown = f"made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); print(made.minimum_version.name, {NO_TICKETS})"
    said = in_a_fresh_interpreter(shown, before=f"import pathlib; openssl._FILE = pathlib.Path({str(ours)!r})")
    assert said == "TLSv1_3 True"


def test_children_do_not_inherit_the_file() -> None:
    assert in_a_fresh_interpreter("print('OPENSSL_CONF' in os.environ)") == "False"


@pytest.mark.parametrize("name", ["_FILE", "_INCLUDED"])
def test_a_file_that_is_damaged_or_not_there_stops_nothing(name: str, tmp_path: Path) -> None:
    file = tmp_path / "openssl.cnf"
    if name == "_FILE":
        file.write_text(".include /nowhere/openssl.cnf\n[nonsense\n")
    shown = f"made = ssl.create_default_context(); print({NO_TICKETS}, os.environ.get('OPENSSL_CONF'))"
    said = in_a_fresh_interpreter(shown, before=f"import pathlib; openssl.{name} = pathlib.Path({str(file)!r})")
    assert said == "False None"
