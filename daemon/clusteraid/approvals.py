"""Joining without a token: requests that wait until a person at each side has compared the code (docs/trust.md)."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from clusterai.approval import NONCE_BYTES, approval_code, commitment, new_nonce
from clusterai.errors import BadRequest, ClusterAIError, Status
from clusterai.ids import NodeId, parse_node_id
from clusteraid.attempts import Attempts, source_of
from clusteraid.enrollment import Admission, Enrollment, Grant
from clusteraid.ports import EventLog

_ROUND_LIMIT, _ROUNDS_FROM_ONE_ADDRESS = 32, 4


class ApprovalsFull(ClusterAIError):
    code, status = "approvals-full", Status.EXHAUSTED
    message = "{count} requests to join wait for approval; there is no room for another"
    hint = "approve or reject some (`clusteractl node list`), or join with a token: `clusteractl token create`"


class ApprovalExpired(ClusterAIError):
    code, status = "approval-expired", Status.TIMED_OUT
    message = "nobody approved the request of {name} within {minutes} min"
    hint = "ask again, then run `clusteractl node approve {name}` on the server"


class ApprovalRejected(ClusterAIError):
    code, status = "approval-rejected", Status.DENIED
    message = "the request of {name} was rejected"
    hint = "if that was a mistake, ask again, or join with a token from `clusteractl token create`"


class CodesRefused(ClusterAIError):
    code, status = "codes-refused", Status.DENIED
    message = "the person at {name} saw another code; nothing was issued"
    hint = "someone may stand between the two machines: join with a token instead (`clusteractl token create`)"


class NothingToApprove(ClusterAIError):
    code, status = "nothing-to-approve", Status.NOT_FOUND
    message = "no node named {name} waits for approval"
    hint = "`clusteractl node list` shows who waits; on the node, run `clusterai-agent join --approve` and keep it open"


class CodesDiffer(ClusterAIError):
    code, status = "codes-differ", Status.DENIED
    message = "{code} is not the code of the waiting node {name}"
    hint = "compare it again with what the node shows; if they really differ, someone stands between: reject it"


@dataclass(eq=False)
class Waiting:
    """A request that waits. It is shown once its code exists."""

    name: NodeId
    admission: Admission
    commitment: bytes
    since: float
    server_nonce: bytes = field(default_factory=new_nonce)
    code: str = ""
    decision: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Approvals:
    """The requests that wait, in memory only and bounded in number and time."""

    def __init__(
        self,
        enrollment: Enrollment,
        attempts: Attempts,
        events: EventLog,
        ca_sha256: bytes,
        clock: Callable[[], float],
        lifetime_seconds: float = 15 * 60.0,
    ) -> None:
        self._enrollment, self._attempts, self._events = enrollment, attempts, events
        self._ca_sha256, self._clock, self._lifetime = ca_sha256, clock, lifetime_seconds
        self._rounds: list[str] = []  # where each came from
        self._waiting: list[Waiting] = []

    def waiting(self) -> tuple[Waiting, ...]:
        """Return the requests that have a code, oldest first."""
        return tuple(entry for entry in self._waiting if entry.code)

    @contextmanager
    def round(self, address: str) -> Iterator[None]:
        """Give a round its place from its first moment: one that never says anything takes up room too.

        Raises:
            TooManyAttempts, ApprovalsFull: too many at once.
        """
        self._attempts.check(address)
        self._attempts.count(address)
        source = source_of(address)
        if len(self._rounds) >= _ROUND_LIMIT or self._rounds.count(source) >= _ROUNDS_FROM_ONE_ADDRESS:
            raise ApprovalsFull(count=len(self._rounds))
        self._rounds.append(source)
        try:
            yield
        finally:
            self._rounds.remove(source)

    async def open(self, node_commitment: bytes, admission: Admission) -> Waiting:
        """Begin, within `round`: keep the node's commitment and draw the server's nonce. `close` must follow.

        Raises:
            InvalidName, NameTaken, ClockSkewed: as at any enrolment.
        """
        name = parse_node_id(admission.name)
        if len(node_commitment) != len(commitment(b"")):
            raise BadRequest(what="commitment", reason="not a SHA-256")
        self._enrollment.check_clock(admission.clock)
        await self._enrollment.check_free(name)
        entry = Waiting(name, admission, node_commitment, self._clock())
        self._waiting.append(entry)
        return entry

    def reveal(self, entry: Waiting, node_nonce: bytes) -> None:
        """Check the node's nonce against its commitment; from now on the request and its code are shown."""
        if len(node_nonce) != NONCE_BYTES or not hmac.compare_digest(commitment(node_nonce), entry.commitment):
            raise BadRequest(what="nonce", reason="it is not the one that was committed to")
        entry.code = approval_code(self._ca_sha256, entry.admission.csr_der, node_nonce, entry.server_nonce)
        message = f"{entry.name} at {entry.admission.address} asks to join; compare its code, then approve or reject"
        self._events.note("approval-requested", entry.name, message)

    async def settle(self, entry: Waiting, confirmation: Callable[[], Awaitable[bool]]) -> Grant:
        """Wait until the operator approved and the node's person confirmed, in any order, then enrol the node.

        Raises:
            ApprovalRejected, CodesRefused: one of them said no; the other is not waited for.
            ApprovalExpired: 15 minutes passed.
        """
        sides = [asyncio.ensure_future(side) for side in (_approved(entry), self._confirmed(entry, confirmation))]
        try:
            async with asyncio.timeout(self._lifetime):
                await asyncio.gather(*sides)
        except TimeoutError as error:
            raise ApprovalExpired(name=entry.name, minutes=round(self._lifetime / 60)) from error
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)
        return await self._enrollment.approve(entry.name, entry.admission)

    async def _confirmed(self, entry: Waiting, confirmation: Callable[[], Awaitable[bool]]) -> None:
        if not await confirmation():
            message = f"at {entry.name} another code than {entry.code} was seen: someone may stand between"
            self._events.note("approval-codes-differ", entry.name, message)
            raise CodesRefused(name=entry.name)

    def close(self, entry: Waiting) -> None:
        """Forget the request, however it ended."""
        self._waiting.remove(entry)
        entry.decision.cancel()

    def approve(self, name: str, code: str) -> Waiting:
        """Decide for the request with this name and code.

        Raises:
            NothingToApprove: nobody of that name waits.
            CodesDiffer: none of those who wait has this code.
        """
        entries = self._named(name)
        for entry in entries:
            if hmac.compare_digest(_plain(entry.code), _plain(code)):
                _decide(entry, approved=True)
                self._events.note("approval-granted", name, f"{name} was approved on the server")
                return entry
        raise CodesDiffer(code=repr(code[:20]), name=name)

    def reject(self, name: str) -> None:
        """Refuse every request of this name; raise NothingToApprove when there is none."""
        for entry in self._named(name):
            _decide(entry, approved=False)
        self._events.note("approval-rejected", name, f"the request of {name} was rejected")

    def _named(self, name: str) -> list[Waiting]:
        entries = [entry for entry in self.waiting() if entry.name == name]
        if not entries:
            raise NothingToApprove(name=name[:64])
        return entries


async def _approved(entry: Waiting) -> None:
    if not await entry.decision:
        raise ApprovalRejected(name=entry.name)


def _decide(entry: Waiting, *, approved: bool) -> None:
    if not entry.decision.done():
        entry.decision.set_result(approved)


def _plain(code: str) -> bytes:
    """The code as people type it: case and dash do not matter."""
    return code.replace("-", "").strip().upper().encode()
