"""The real daemon, every method of every service, called by who may not."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from clusterai.enroll_client import Enrolled, enroll
from clusterai.rpc import from_rpc_error, local_channel, secure_channel
from clusterai.v1.types_pb2 import NodeFacts
from support.killable import KillableDaemon, killable_daemon
from support.methods import METHODS

NODES, STRANGERS = ("NodeService/",), ("EnrollmentService/",)
STREAMED = ("NodeService/Session",)  # many requests: the server does not wait for the first before it answers
OPERATORS = sorted(method for method in METHODS if not method.startswith(NODES + STRANGERS))


@pytest.fixture
async def daemon() -> AsyncIterator[KillableDaemon]:
    with tempfile.TemporaryDirectory() as directory:
        async with killable_daemon(Path(directory)) as running:
            yield running


async def node(daemon: KillableDaemon) -> Enrolled:
    return await enroll(await daemon.enrollment_address(), await daemon.token(), name="pi4", facts=NodeFacts())


async def answer(channel: grpc.aio.Channel, method: str, *, heard: bool = True) -> tuple[str, str, str]:
    """Call a method with an empty message; its status, our code for it, and the hint.

    Nothing is sent to a server that answers without having heard it: sending into an ended call fails in the client.
    """
    call: Any = channel.stream_stream(f"/clusterai.v1.{method}", bytes, bytes)
    responses = call(iter([b""]) if heard and method not in STREAMED else None, timeout=60)
    try:
        async for _ in responses:
            continue
    except grpc.aio.AioRpcError as error:
        refused = from_rpc_error(error, "the daemon")
        return error.code().name, refused.code, refused.advice
    return "OK", "", ""


async def test_a_node_is_refused_every_operator_call(daemon: KillableDaemon) -> None:
    pi4 = await node(daemon)
    address = pi4.server_addresses[0]
    async with secure_channel(address, ca_pem=pi4.ca_pem, chain_pem=pi4.chain_pem, key_pem=pi4.key_pem) as channel:
        answers = {method: await answer(channel, method) for method in OPERATORS}
    assert len(answers) > 20
    assert {method: said[:2] for method, said in answers.items() if said[:2] != ("PERMISSION_DENIED", "denied")} == {}
    assert all(said[2] for said in answers.values())


async def test_enrolment_is_on_its_own_port_and_nothing_else_is_there(daemon: KillableDaemon) -> None:
    async with daemon.enrollment() as channel:
        other = [method for method in METHODS if not method.startswith(STRANGERS)]
        answers = {method: (await answer(channel, method, heard=False))[0] for method in other}
    assert set(answers.values()) == {"UNIMPLEMENTED"}
    async with local_channel(daemon.socket) as channel:
        assert (await answer(channel, "EnrollmentService/Enroll", heard=False))[0] == "UNIMPLEMENTED"


async def test_the_local_socket_is_no_node(daemon: KillableDaemon) -> None:
    async with local_channel(daemon.socket) as channel:
        for method in (method for method in METHODS if method.startswith(NODES)):
            assert (await answer(channel, method))[:2] == ("PERMISSION_DENIED", "denied")
