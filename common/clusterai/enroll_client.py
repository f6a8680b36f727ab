"""Joining a cluster, from the side that joins: check the authority first, send the secret after (docs/trust.md)."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clusterai.approval import approval_code, commitment, new_nonce
from clusterai.channel import Channel, Method, Stream, Trust, open_channel
from clusterai.credentials import chain_pem
from clusterai.errors import ClusterAIError, Status, TimedOut, Unreachable
from clusterai.ids import Identity
from clusterai.keytool import KeyRequest, fingerprints_in_helper, request_in_helper
from clusterai.remote import join_address, split_address
from clusterai.shown_certificates import check_clock, shown_chain
from clusterai.tokens import JoinToken
from clusterai.v1 import enrollment_pb2 as pb
from clusterai.v1.types_pb2 import NodeFacts

ENROLLMENT_PORT = 7444
_CALL_SECONDS = 30.0
_DECISION_SECONDS = 16 * 60.0  # the server forgets a request after 15 minutes and says so
_ENROLL = Method("/clusterai.v1.EnrollmentService/Enroll", pb.EnrollRequest, pb.EnrollResponse)
_REQUEST_APPROVAL = Method(
    "/clusterai.v1.EnrollmentService/RequestApproval", pb.RequestApprovalRequest, pb.RequestApprovalResponse
)


class WrongAuthority(ClusterAIError):
    code, status = "wrong-authority", Status.DENIED
    message = "the server at {address} is not the cluster that this token is for; the secret was not sent"
    hint = "check the address; if it is right, create a token on that very server with `clusteractl token create`"


class ApprovalEnded(ClusterAIError):
    code, status = "approval-ended", Status.DENIED
    message = "the request to join {address} ended: {reason}"
    hint = "ask again with `clusterai-agent join --approve`, or use a token from `clusteractl token create`"


@dataclass(frozen=True)
class FetchedCA:
    """A cluster CA as a server sent it, and the SHA-256 of its SPKI."""

    pem: bytes
    spki_sha256: bytes


@dataclass(frozen=True)
class Enrolled:
    """What a machine or a person has after joining."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    ca_pem: bytes
    identity: Identity
    cluster_id: str
    server_addresses: tuple[str, ...]


async def fetch_ca(address: str, pinned_sha256: bytes | None, clock: Callable[[], float] = time.time) -> FetchedCA:
    """Return the CA that the server shows: the one with the pinned key, or, without a pin, the one it claims.

    Nothing is sent to the server but the start of a TLS connection.

    Raises:
        Unreachable: no TLS server answers there.
        WrongAuthority: no certificate of the chain has the pinned key.
        ClockDiffers: by this machine's clock the certificates are not valid now.
    """
    host, port = split_address(address, ENROLLMENT_PORT)
    chain = await shown_chain(host, port)
    fingerprints = await fingerprints_in_helper(chain)
    wanted = fingerprints[-1] if pinned_sha256 is None else pinned_sha256
    if not wanted or wanted not in fingerprints:
        raise WrongAuthority(address=address)
    try:
        check_clock(address, chain, datetime.fromtimestamp(clock(), UTC))
    except ValueError as error:
        raise WrongAuthority(address=address) from error
    return FetchedCA(chain_pem([chain[fingerprints.index(wanted)]]), wanted)


async def enroll(
    address: str, token: JoinToken, *, name: str, facts: NodeFacts | None, clock: Callable[[], float] = time.time
) -> Enrolled:
    """Join with a token, as the name or, when it is empty, as the name that the token is bound to.

    Raises:
        Unreachable, WrongAuthority, ClockDiffers: as fetch_ca; the secret has not left this machine.
        RemoteError: the server refused; its sentence says why.
    """
    authority = await fetch_ca(address, token.ca_sha256, clock)
    request = await request_in_helper()
    message = pb.EnrollRequest(
        token_id=token.token_id, token_secret=token.secret, csr_der=request.csr_der, node_name=name, facts=facts,
        clock_unix_seconds=clock(),
    )
    async with _enrollment(address, authority) as channel:
        return _enrolled(await channel.call(_ENROLL, message, _CALL_SECONDS), request)


async def request_approval(
    address: str, *, name: str, facts: NodeFacts | None, confirm: Callable[[str], Awaitable[bool]]
) -> Enrolled:
    """Join without a token: `confirm` shows the code and returns whether the server's operator sees the same one.

    Waits up to 15 minutes for the operator.

    Raises:
        ApprovalEnded: this side's person declined, or the server ended the round without a decision.
        RemoteError: refused or too late; its sentence says which.
    """
    authority = await fetch_ca(address, None)
    request, nonce = await request_in_helper(), new_nonce()
    opening = pb.ApprovalOpening(commitment=commitment(nonce), csr_der=request.csr_der, node_name=name, facts=facts)
    async with _enrollment(address, authority) as channel:
        call = channel.stream(_REQUEST_APPROVAL, _DECISION_SECONDS)
        challenge = await _challenge(call, address, pb.RequestApprovalRequest(opening=opening))
        reveal = pb.RequestApprovalRequest(reveal=pb.ApprovalReveal(nonce=nonce))
        code = approval_code(authority.spki_sha256, request.csr_der, nonce, challenge.nonce)
        person = _ask_person(call, reveal, code, confirm)
        return _enrolled(await _decided(call, address, person), request)


async def _challenge(call: Stream, address: str, opening: pb.RequestApprovalRequest) -> pb.ApprovalChallenge:
    """Open the round. Reads while it writes: gRPC holds a failed write back until what came before is read."""
    writing = asyncio.create_task(call.write(opening), name="approval opening")
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            answer = await _answer(call, address, "challenge")
            await writing
    except TimeoutError as error:
        raise TimedOut(what=f"the first answer of {address}", limit=f"{_CALL_SECONDS} s") from error
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    return answer.challenge


async def _ask_person(
    call: Stream, reveal: pb.RequestApprovalRequest, code: str, confirm: Callable[[str], Awaitable[bool]]
) -> bool | None:
    """Reveal the nonce and show the code: what the person says of it, or None when the round had ended before."""
    return await confirm(code) if await call.write(reveal) else None


async def _decided(call: Stream, address: str, person: Coroutine[Any, Any, bool | None]) -> pb.EnrollResponse:
    """Wait for the person here and the one at the server; an end of the call ends the question too."""
    asked = asyncio.create_task(person, name="approval question")
    answered = asyncio.create_task(_answer(call, address, "issued"), name="approval answer")
    try:
        await asyncio.wait((asked, answered), return_when=asyncio.FIRST_COMPLETED)
        accepted = asked.result() if asked.done() else None
        if accepted is not None:
            await call.write(pb.RequestApprovalRequest(confirmed=pb.ApprovalConfirmed(accepted=accepted)))
        if accepted is False:
            raise ApprovalEnded(address=address, reason="you said that the codes differ")
        return (await answered).issued
    finally:
        asked.cancel()
        answered.cancel()
        await asyncio.gather(asked, answered, return_exceptions=True)


async def _answer(call: Stream, address: str, step: str) -> pb.RequestApprovalResponse:
    """Read one message of the round and insist on its kind."""
    message = await call.read()
    if not isinstance(message, pb.RequestApprovalResponse):
        raise ApprovalEnded(address=address, reason="the server closed it")
    if message.WhichOneof("step") != step:
        raise ApprovalEnded(address=address, reason=f"the server did not send the {step}")
    return message


@contextlib.asynccontextmanager
async def _enrollment(address: str, authority: FetchedCA) -> AsyncIterator[Channel]:
    """A channel that trusts the checked authority only."""
    channel = open_channel(join_address(*split_address(address, ENROLLMENT_PORT)), Trust(authority.pem))
    try:
        yield channel
    except Unreachable as error:
        raise _hinted(error, address) from error
    finally:
        await channel.close()


def _hinted(error: Unreachable, address: str) -> Unreachable:
    """A server that showed its certificates a moment ago and now hangs up wants one of ours: the port of members."""
    host, port = split_address(address, ENROLLMENT_PORT)
    if port == ENROLLMENT_PORT:
        return error
    right = f"{join_address(host, ENROLLMENT_PORT)}, or leave the port out"
    fix = (
        f"port {port} may be the one for members; joining has a port of its own: give {right}; "
        "if it is the right port, its certificate is not of this cluster: somebody may be in between"
    )
    return Unreachable(join_address(host, port), "it hung up after its certificate was checked", fix)


def _enrolled(response: pb.EnrollResponse, request: KeyRequest) -> Enrolled:
    return Enrolled(
        request.key_pem, chain_pem(response.certificate_chain_der), response.ca_bundle_pem,
        Identity.parse(response.identity), response.cluster_id, tuple(response.server_addresses),
    )
