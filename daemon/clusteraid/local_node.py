"""The server computes too: a join token for its own agent, in a file that only that agent can read."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from clusterai.files import CannotWrite, write_atomic
from clusteraid.config import LocalNodeConfig
from clusteraid.join_tokens import JoinTokens, TokenRequest
from clusteraid.nodes import Node, Nodes
from clusteraid.ports import Enrolment, Role
from clusteraid.status import Problems
from clusteraid.store import StoreUnavailable

log = logging.getLogger(__name__)
CREATED_BY = "local node"
_RENEW_SECONDS = 600.0  # before the token's 15 minutes are over
_RETRY_SECONDS = 10.0
_OFFER_SECONDS = 5.0
_LOOPBACK = ("127.0.0.1", "::1")
_FILE_MODE = 0o640  # the directory is setgid: the agent's group reads it


def is_own(node: Node, machine_id: str) -> bool:
    """Whether the node is the server's own machine, whose id is given as agents tell theirs.

    Copied machines may have one id and remote ones may come in by a tunnel: it takes the id and the address, which is
    not known before the first session, or the token that only this machine's agent can read.
    """
    here = bool(machine_id) and node.facts.machine_id == machine_id
    return node.admitted_by == CREATED_BY or (here and node.address in ("", *_LOOPBACK))


class LocalNode:
    """Keeps a fresh token in the file until the server's own agent has joined; once per cluster.

    The second line is where to join: `address` returns the HOST:PORT of the enrolment port.
    """

    def __init__(
        self, config: LocalNodeConfig, tokens: JoinTokens, nodes: Nodes, problems: Problems, address: Callable[[], str]
    ) -> None:
        self._config, self._tokens, self._nodes, self._problems = config, tokens, nodes, problems
        self._address = address
        self._token_id = ""
        self._joined, self._offered = asyncio.Event(), asyncio.Event()

    def node_enrolled(self, enrolment: Enrolment) -> None:
        """Listen to enrolments: once the own agent has joined, the token is gone."""
        if enrolment.role is Role.NODE and enrolment.token_id and enrolment.token_id == self._token_id:
            self._nodes.find(enrolment.name).admitted_by = CREATED_BY
            self._joined.set()
            self._remove()

    async def offered(self) -> None:
        """Wait, for a bounded time, until the token lies there or is known not to: the agent's unit looks only once."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._offered.wait(), _OFFER_SECONDS)

    async def keep_token(self) -> None:
        """Keep the token fresh until it was used; the file goes with the daemon."""
        if not self._config.enroll or any(node.admitted_by == CREATED_BY for node in self._nodes):
            self._remove()
            self._offered.set()
            return
        try:
            while not self._joined.is_set():
                wait = _RENEW_SECONDS if await self._renew() else _RETRY_SECONDS
                self._offered.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._joined.wait(), wait)
        finally:
            self._remove()

    async def _renew(self) -> bool:
        """Put a new token into the file; false when that is not possible now."""
        try:
            request = TokenRequest(created_by=CREATED_BY, in_place_of_another=bool(self._token_id))
            token, record = await self._tokens.create(request)
            self._token_id = record.token_id
            write_atomic(self._config.token_file, f"{token}\n{self._address()}\n".encode(), _FILE_MODE)
        except (CannotWrite, StoreUnavailable) as error:
            if not self._problems.find("local node"):
                log.warning("the server's own agent cannot join: %s; %s", error, error.advice)
            self._problems.set("local node", f"the server's own agent cannot join: {error}")
            return False
        self._problems.set("local node", "")
        return True

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            Path(self._config.token_file).unlink(missing_ok=True)
