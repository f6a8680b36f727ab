"""Becoming a node: with a token, by approval, or as the server's own agent."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from clusterai.enroll_client import Enrolled, WrongAuthority, enroll, request_approval
from clusterai.errors import ClusterAIError, Status, Unreachable
from clusterai.ids import ClusterId, IdentityKind, parse_node_id
from clusterai.tokens import JoinToken
from clusterai.v1.types_pb2 import NodeFacts
from clusterai_agent.addresses import ENROLLMENT_PORT, SERVER_PORT, Address, parse_all
from clusterai_agent.config import AgentConfig
from clusterai_agent.discovery import browse
from clusterai_agent.home import Home, Membership

log = logging.getLogger(__name__)


class ServerNotFound(ClusterAIError):
    code, status = "server-not-found", Status.UNREACHABLE
    message = "no server of Cluster AI was found on this network"
    hint = "name it: `clusterai-agent join --server HOST` (networks without multicast need that)"


class SeveralClusters(ClusterAIError):
    code, status = "several-clusters", Status.USAGE
    message = "servers of several clusters were found: {servers}"
    hint = "name the right one: `clusterai-agent join --server HOST`"


class NotANode(ClusterAIError):
    code, status = "not-a-node", Status.USAGE
    message = "this token makes {identity}, not a node"
    hint = "on the server run `clusteractl token create` without --role, and join with that token"


async def servers_to_try(server: str, config: AgentConfig) -> list[str]:
    """Return enrolment addresses: the one named, else the configured ones' hosts and what multicast finds.

    Raises:
        ServerNotFound: none of these.
    """
    if server:
        return [server]
    configured = parse_all(config.server.addresses, SERVER_PORT)
    found = await browse() if config.server.discover else []
    places = [Address(address.host, ENROLLMENT_PORT) for address in configured]
    places += [address for one in found for address in one.enrollment_addresses()]
    if not places:
        raise ServerNotFound
    return [str(address) for address in dict.fromkeys(places)]


async def join_with_token(
    servers: Sequence[str], token: JoinToken, name: str, facts: NodeFacts
) -> tuple[str, Enrolled]:
    """Return the server that took the token, and what it gave.

    Servers of other clusters are passed over: the secret goes only to the one whose CA the token names.
    """
    return await _first(servers, lambda server: enroll(server, token, name=name, facts=facts))


async def join_by_approval(
    servers: Sequence[str], name: str, facts: NodeFacts, confirm: Callable[[str], Awaitable[bool]]
) -> tuple[str, Enrolled]:
    """Return the server whose operator approved this machine, and what it gave."""
    return await _first(servers, lambda server: request_approval(server, name=name, facts=facts, confirm=confirm))


async def _first(servers: Sequence[str], join: Callable[[str], Awaitable[Enrolled]]) -> tuple[str, Enrolled]:
    """The first server that is there and is the right one."""
    failures: list[ClusterAIError] = []
    for server in servers:
        try:
            return server, await join(server)
        except (Unreachable, WrongAuthority) as error:
            log.debug("%s: %s", server, error)
            failures.append(error)
    raise next((error for error in failures if isinstance(error, WrongAuthority)), failures[0])


def keep(home: Home, server: str, enrolled: Enrolled) -> Membership:
    """Write the new identity to the state directory and return it.

    The server is remembered under the address that just worked, at the port that it names, before those it names.
    """
    if enrolled.identity.kind is not IdentityKind.NODE:
        raise NotANode(identity=str(enrolled.identity))
    named = parse_all(enrolled.server_addresses, SERVER_PORT)
    reached = Address.parse(server)
    port = named[0].port if named else SERVER_PORT
    first = [str(Address(reached.host, port))] if reached else []
    empty = Membership(parse_node_id(enrolled.identity.name), ClusterId(enrolled.cluster_id))
    membership = empty.remembering([*first, *map(str, named)])
    home.store(membership, enrolled.key_pem, enrolled.chain_pem, enrolled.ca_pem)
    return membership
