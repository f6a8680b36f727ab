"""Certificates in use: renewal without a restart, revocation, roles, over real mTLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from clusterai.enroll_client import fetch_ca
from clusterai.errors import ClusterAIError
from clusterai.ids import IdentityKind
from clusterai.pki import chain_pem, key_pem, new_csr, new_key, serial_of
from clusterai.rpc import from_rpc_error, secure_channel
from clusterai.v1 import operator_pb2, token_pb2
from clusterai.v1.operator_pb2_grpc import OperatorServiceStub
from clusterai.v1.token_pb2_grpc import TokenServiceStub
from clusteraid.ports import Role
from support.trust import Trust


@pytest.fixture
async def trust(tmp_path: Path) -> AsyncIterator[Trust]:
    async with Trust.open(tmp_path) as opened, opened.serving():
        yield opened


def channel(trust: Trust, key: bytes, chain: bytes) -> grpc.aio.Channel:
    return secure_channel(trust.address, ca_pem=trust.authority.ca_pem, key_pem=key, chain_pem=chain)


async def list_operators(opened: grpc.aio.Channel) -> operator_pb2.ListOperatorsResponse:
    listed: operator_pb2.ListOperatorsResponse = await OperatorServiceStub(opened).ListOperators(
        operator_pb2.ListOperatorsRequest(), timeout=5
    )
    return listed


async def refusal(call: object) -> ClusterAIError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call  # type: ignore[misc]
    error = from_rpc_error(refused.value, "tower")
    assert error.advice
    return error


async def test_an_admin_makes_lists_and_revokes_tokens(trust: Trust) -> None:
    async with channel(trust, *await trust.member("ada", Role.ADMIN)) as opened:
        stub = TokenServiceStub(opened)
        made = await stub.CreateToken(token_pb2.CreateTokenRequest(bound_name="pi4", ttl_seconds=60), timeout=60)
        await stub.RevokeToken(token_pb2.RevokeTokenRequest(token_id=made.details.token_id), timeout=60)
        listed = await stub.ListTokens(token_pb2.ListTokensRequest(), timeout=60)
    newest = next(token for token in listed.tokens if token.token_id == made.details.token_id)
    assert made.token.split(".")[2] == newest.token_id
    assert (newest.role, newest.bound_name, newest.created_by) == (token_pb2.ROLE_NODE, "pi4", "operator ada")
    assert newest.revoked
    assert made.server_addresses == ["t:1"]


async def test_a_role_of_a_newer_peer_is_refused(trust: Trust) -> None:
    async with channel(trust, *await trust.member("ada", Role.ADMIN)) as opened:
        request = token_pb2.CreateTokenRequest(role=99)  # type: ignore[arg-type]
        assert "99" in str(await refusal(TokenServiceStub(opened).CreateToken(request, timeout=60)))


async def test_a_node_is_refused_an_operator_call(trust: Trust) -> None:
    async with channel(trust, *await trust.member("pi4")) as opened:
        error = await refusal(list_operators(opened))
    assert error.code == "denied"
    assert "node pi4" in str(error)


async def test_a_certificate_of_the_dask_authority_opens_nothing(trust: Trust) -> None:
    key = new_key()
    issued = trust.authority.dask("main").issue(new_csr(key), "pi4")
    async with channel(trust, key_pem(key), issued.chain_pem) as opened:
        assert (await refusal(list_operators(opened))).status.exit_code == 5


async def test_a_certificate_of_the_cluster_with_a_dask_name_is_nobody(trust: Trust) -> None:
    key = new_key()
    issued = trust.authority._cluster.issue(new_csr(key), f"spiffe://{trust.authority.cluster_id}/dask/main/pi4")
    async with channel(trust, key_pem(key), issued.chain_pem) as opened:
        assert (await refusal(list_operators(opened))).code == "not-identified"


async def test_no_certificate_no_call(trust: Trust) -> None:
    async with secure_channel(trust.address, ca_pem=trust.authority.ca_pem) as opened:
        assert (await refusal(list_operators(opened))).status.exit_code == 5


async def test_a_revoked_operator_is_refused_on_its_open_connection(trust: Trust) -> None:
    async with channel(trust, *await trust.member("ada", Role.ADMIN)) as opened:
        assert await list_operators(opened)
        await trust.operators.revoke("ada")
        assert (await refusal(list_operators(opened))).code == "revoked"


async def test_an_operator_renews_its_own_certificate_and_the_old_one_stays_good(trust: Trust) -> None:
    old, key = await trust.member("ada", Role.VIEWER), new_key()
    async with channel(trust, *old) as opened:
        stub = OperatorServiceStub(opened)
        renewed = await stub.RenewOperator(operator_pb2.RenewOperatorRequest(csr_der=new_csr(key)), timeout=60)
        fresh = chain_pem(renewed.certificate_chain_der)
        async with channel(trust, key_pem(key), fresh) as opened_anew:
            again = OperatorServiceStub(opened_anew)
            assert await again.RenewOperator(operator_pb2.RenewOperatorRequest(csr_der=new_csr(key)), timeout=60)
        assert await stub.RenewOperator(operator_pb2.RenewOperatorRequest(csr_der=new_csr(key)), timeout=60)
    assert serial_of(fresh) != serial_of(old[1])
    await trust.revocations.revoke(trust.authority.identity(IdentityKind.OPERATOR, "ada"))
    assert trust.revocations.is_revoked(serial_of(fresh))


async def test_the_daemon_s_certificate_changes_under_open_connections(trust: Trust) -> None:
    before = await leaf_offered(trust)
    async with channel(trust, *await trust.member("ada", Role.ADMIN)) as opened:
        assert await list_operators(opened)
        trust.certificate.renew()
        after = await leaf_offered(trust)
        assert await list_operators(opened)
    assert before != after
    assert await leaf_offered(trust) == after
    assert (await fetch_ca(trust.enrollment_address, trust.authority.ca_sha256)).pem == trust.authority.ca_pem


async def leaf_offered(trust: Trust) -> str:
    """The serial number of the certificate that a new connection is shown."""
    host, _, port = trust.enrollment_address.rpartition(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    return serial_of(pem.encode())
