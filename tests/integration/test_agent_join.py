"""`clusterai-agent join` and `leave`, and the server's own agent, against the real enrolment service."""

import asyncio
import os
import pty
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from clusterai.pki import CertificateAuthority
from clusterai.tokens import JoinToken
from clusterai_agent.home import Home
from clusteraid.join_tokens import TokenRequest
from support.agent_program import agent, command, said, variables
from support.node_daemon import agent_toml
from support.trust import Trust
from support.waiting import until


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[Trust]:
    """A server that takes new members."""
    (directory / "server").mkdir()
    async with Trust.open(directory / "server") as trust, trust.serving():
        yield trust


class Typing:
    """A person at a terminal: starts a command on a pseudo-terminal, reads what it shows, types answers."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self._master, self.process, self.shown = master, process, ""

    async def expect(self, text: str) -> None:
        """Wait until the text was shown."""
        os.set_blocking(self._master, False)
        await until(lambda: text in self._read())

    def type(self, text: str) -> None:
        os.write(self._master, text.encode() + b"\n")

    async def end(self) -> int:
        async with asyncio.timeout(90):
            code = await self.process.wait()
        self._read()
        return code

    def _read(self) -> str:
        try:
            while data := os.read(self._master, 65536):
                self.shown += data.decode()
        except (BlockingIOError, OSError):
            pass
        return self.shown


@asynccontextmanager
async def terminal(config: Path, *arguments: str) -> AsyncIterator[Typing]:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *command(config, *arguments), stdin=slave, stdout=slave, stderr=slave, env=variables(), start_new_session=True
    )
    os.close(slave)
    try:
        yield Typing(master, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)


async def token_file(directory: Path, trust: Trust, bound_name: str = "") -> Path:
    path = directory / "token"
    path.write_text(f"{await trust.token(TokenRequest(bound_name=bound_name, created_by='test'))}\n")
    return path


async def test_a_token_in_a_file_makes_a_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as trust:
        config, token = agent_toml(tmp_path), await token_file(tmp_path, trust)
        options = ("--server", trust.enrollment_address, "--token-file", str(token), "--name", "pi4")
        code, output, errors = await said(config, "join", *options)
        assert (code, errors) == (0, "")
        assert "This machine is now node pi4 of cluster" in output
        home = Home(tmp_path / "agent")
        assert home.membership().node_id == "pi4"
        assert home.membership().server_addresses[0] == trust.address
        assert oct(home.certificate.stat().st_mode & 0o777) == "0o600"
        assert (await trust.facts("pi4")).hostname == socket.gethostname()
        again = await said(config, "join", *options)
        assert again[0] == 1
        assert "this machine is node pi4" in again[2]
        assert "--force" in again[2]


async def test_the_token_is_pasted_at_the_prompt_and_not_shown(tmp_path: Path) -> None:
    async with cluster(tmp_path) as trust:
        token = str(await trust.token(TokenRequest(bound_name="pi4", created_by="test")))
        async with terminal(agent_toml(tmp_path), "join", "--server", trust.enrollment_address) as person:
            await person.expect("Join token")
            person.type(token)
            assert await person.end() == 0
            assert "now node pi4" in person.shown
            assert token not in person.shown
            assert JoinToken.parse(token).secret not in person.shown


async def test_without_a_token_both_sides_confirm_the_same_code(tmp_path: Path) -> None:
    async with cluster(tmp_path) as trust:
        arguments = ("join", "--server", trust.enrollment_address, "--name", "pi4")
        async with terminal(agent_toml(tmp_path), *arguments) as person:
            await person.expect("Join token")
            person.type("")
            await person.expect("Does the server show the same code?")
            await until(lambda: len(trust.approvals.waiting()) == 1)  # its message is under way
            (waiting,) = trust.approvals.waiting()
            assert waiting.code in person.shown
            person.type("yes")
            trust.approvals.approve("pi4", waiting.code)
            assert await person.end() == 0
        assert Home(tmp_path / "agent").membership().node_id == "pi4"


async def test_a_person_who_sees_another_code_ends_it(tmp_path: Path) -> None:
    async with cluster(tmp_path) as trust:
        arguments = ("join", "--server", trust.enrollment_address, "--approve")
        async with terminal(agent_toml(tmp_path), *arguments) as person:
            await person.expect("Does the server show the same code?")
            person.type("no")
            assert await person.end() == 4
            assert "the codes differ" in person.shown
        assert not Home(tmp_path / "agent").joined


async def test_a_token_in_argv_is_refused_with_the_reason(tmp_path: Path) -> None:
    token = str(JoinToken.new(CertificateAuthority.create("x").spki_sha256))
    for arguments in ((token,), ("--token", token)):
        code, output, errors = await said(agent_toml(tmp_path), "join", *arguments)
        assert code == 2
        assert "shell's history" in errors
        assert "--token-file" in errors
        assert token not in output + errors


async def test_a_token_of_another_cluster_sends_no_secret_and_says_so(tmp_path: Path) -> None:
    async with cluster(tmp_path) as trust:
        strange = JoinToken.new(CertificateAuthority.create("x").spki_sha256)
        (tmp_path / "token").write_text(str(strange))
        options = ("--server", trust.enrollment_address, "--token-file", str(tmp_path / "token"))
        code, _, errors = await said(agent_toml(tmp_path), "join", *options)
        assert code == 4
        assert "the secret was not sent" in errors


async def test_bad_input_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    config = agent_toml(tmp_path)
    (tmp_path / "token").write_text("hello")
    token = ("--token-file", str(tmp_path / "token"))
    for arguments, text in (
        ((*token, "--server", "127.0.0.1:1"), "not a join token"),
        ((*token, "--name", "Röti"), "not a valid name"),
        ((*token, "--name", "a" * 10_000), "not a valid name"),
        ((*token, "--server", "a b"), "not an address"),
        (("--token-file", str(tmp_path / "none")), "No such file"),
        (("--server", "127.0.0.1:1"), "no token was given"),
    ):
        code, _, errors = await said(config, "join", *arguments)
        assert code in (1, 2)
        assert text in errors
        assert "Traceback" not in errors


async def test_an_unreachable_server_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(str(JoinToken.new(b"\0" * 32)))
    options = ("--server", "127.0.0.1:1", "--token-file", str(tmp_path / "token"))
    code, _, errors = await said(agent_toml(tmp_path), "join", *options)
    assert code == 5
    assert "cannot reach 127.0.0.1:1" in errors


async def test_the_port_of_members_is_the_wrong_one_and_the_hint_names_the_right_one(tmp_path: Path) -> None:
    async with cluster(tmp_path) as trust:
        token = await token_file(tmp_path, trust)
        options = ("--server", trust.address, "--token-file", str(token))
        code, _, errors = await said(agent_toml(tmp_path), "join", *options)
        assert code == 5
        assert f"cannot reach {trust.address}" in errors
        assert "127.0.0.1:7444, or leave the port out" in errors


async def test_no_server_on_the_network_says_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(str(JoinToken.new(b"\0" * 32)))
    code, _, errors = await said(agent_toml(tmp_path), "join", "--token-file", str(tmp_path / "token"))
    assert code == 5
    assert "--server HOST" in errors


async def test_the_servers_own_agent_joins_by_itself(tmp_path: Path) -> None:
    async with cluster(tmp_path) as trust:
        config = agent_toml(tmp_path)
        (tmp_path / "local.token").write_text("not yet written")
        async with agent(config):
            await until(lambda: "cannot join the server" in _status(tmp_path))
            written = await token_file(tmp_path, trust, bound_name="server")
            written.write_text(f"{written.read_text()}{trust.enrollment_address}\n")
            written.replace(tmp_path / "local.token")
            home = Home(tmp_path / "agent")
            await until(lambda: home.joined, 60)
            assert home.membership().node_id == "server"


async def test_leaving_forgets_the_identity(tmp_path: Path) -> None:
    async with cluster(tmp_path) as trust:
        config, token = agent_toml(tmp_path), await token_file(tmp_path, trust, bound_name="pi4")
        await said(config, "join", "--server", trust.enrollment_address, "--token-file", str(token))
        home = Home(tmp_path / "agent")
        home.policy.write_text("{}")
        home.pause.write_text('{"until_charged": true}')
        code, output, _ = await said(config, "leave", "--yes")
        assert code == 0
        assert "clusteractl node remove pi4" in output
        assert not home.joined
        assert (home.policy.exists(), home.pause.exists()) == (False, True), "the owner's word is not the cluster's"
        code, _, errors = await said(config, "leave", "--yes")
        assert (code, "has not joined" in errors) == (1, True)


def _status(directory: Path) -> str:
    path = directory / "agent/agent-status.json"
    return path.read_text() if path.exists() else ""


