"""The table of roles: every method of every service is in it, and what is not is refused."""

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from clusterai import v1
from clusterai.errors import ClusterAIError
from clusterai.ids import ClusterId
from clusterai.pki import LEAF_LIFETIME, CertificateAuthority, new_csr, new_key
from clusteraid.access import ROLES, Access, Caller, Denied, Ended, Listener, NotIdentified, Revoked, peer_address
from clusteraid.ports import Role

CLUSTER = ClusterId("c1")
AUTHORITY = CertificateAuthority.create("test")
LIST_NODES = "/clusterai.v1.NodeAdminService/ListNodes"
SESSION = "/clusterai.v1.NodeService/Session"


def every_method() -> list[str]:
    """All methods of all services, from the descriptors of the generated modules."""
    modules = [import_module(f"clusterai.v1.{path.stem}") for path in Path(v1.__path__[0]).glob("*_pb2.py")]
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return sorted(f"/{service.full_name}/{method.name}" for service in services for method in service.methods)


METHODS = every_method()
OPERATOR_METHODS = [
    name for name in METHODS if not name.startswith(("/clusterai.v1.NodeService/", "/clusterai.v1.Enroll"))
]


def context(uri: str, *, more: Sequence[str] = ()) -> Mapping[str, Sequence[bytes]]:
    """What gRPC says of a peer with a certificate of these URI names."""
    pem = AUTHORITY.issue(new_csr(new_key()), uri).chain_pem
    names = {"peer_spiffe_id": [uri.encode()]} if not more else {}
    return {"x509_pem_cert": [pem], **names}


def access(role: Role | None = Role.ADMIN, *, revoked: bool = False) -> Access:
    return Access(CLUSTER, lambda _: revoked, lambda _: role)


NODE = context("spiffe://c1/node/pi4")
ADA = context("spiffe://c1/operator/ada")


def decide(method: str, peer: Mapping[str, Sequence[bytes]], role: Role | None = None) -> Caller:
    return access(role).authorize(method, Listener.MUTUAL_TLS, "ipv4:10.0.0.7:5000", peer)


def test_the_table_has_exactly_the_methods_that_exist() -> None:
    assert len(METHODS) > 25
    assert sorted(ROLES) == METHODS
    assert all(ROLES.values())


@pytest.mark.parametrize("method", OPERATOR_METHODS)
def test_a_node_is_refused_every_operator_method(method: str) -> None:
    with pytest.raises(Denied, match="node pi4") as refused:
        decide(method, NODE)
    assert refused.value.advice
    assert refused.value.status.exit_code == 4


@pytest.mark.parametrize("method", METHODS)
def test_no_operator_may_do_what_only_nodes_or_strangers_do(method: str) -> None:
    if method in OPERATOR_METHODS:
        assert decide(method, ADA, Role.ADMIN).role is Role.ADMIN
        return
    with pytest.raises(Denied):
        decide(method, ADA, Role.ADMIN)


@pytest.mark.parametrize("method", METHODS)
def test_the_enrolment_port_gives_enrolment_only(method: str) -> None:
    gate = access()
    if method.startswith("/clusterai.v1.EnrollmentService/"):
        assert gate.authorize(method, Listener.ENROLLMENT, "ipv4:10.0.0.7:5000", {}).address == "10.0.0.7"
        return
    with pytest.raises(Denied):
        gate.authorize(method, Listener.ENROLLMENT, "ipv4:10.0.0.7:5000", NODE)


@pytest.mark.parametrize("method", METHODS)
def test_each_role_may_what_the_one_below_may(method: str) -> None:
    allowed = [role for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN) if role in ROLES[method]]
    assert allowed in ([], [Role.ADMIN], [Role.OPERATOR, Role.ADMIN], [Role.VIEWER, Role.OPERATOR, Role.ADMIN])


@pytest.mark.parametrize("word", ["Create", "Revoke", "RemoveNode", "Approve", "Reject", "ListTokens", "ListOperators"])
def test_only_admins_decide_who_belongs_to_the_cluster(word: str) -> None:
    decisive = [method for method in METHODS if word in method.rpartition("/")[2]]
    assert decisive
    assert all(ROLES[method] == {Role.ADMIN} for method in decisive)


@pytest.mark.parametrize(
    "method", ["/clusterai.v1.NodeAdminService/Format", "/grpc.health.v1.Health/Check", "", "x" * 9999]
)
def test_what_is_not_in_the_table_is_refused_even_an_admin(method: str) -> None:
    with pytest.raises(Denied) as refused:
        access().authorize(method, Listener.LOCAL, "unix:", {})
    assert len(str(refused.value)) < 300


def test_the_local_socket_makes_an_admin_and_not_a_node() -> None:
    assert access().authorize(LIST_NODES, Listener.LOCAL, "unix:", {}).name == "local admin"
    with pytest.raises(Denied):
        access().authorize(SESSION, Listener.LOCAL, "unix:", {})


def test_a_caller_is_who_its_certificate_names() -> None:
    caller = decide(SESSION, NODE)
    assert (caller.role, caller.name, caller.address) == (Role.NODE, "node pi4", "10.0.0.7")
    assert decide(LIST_NODES, ADA, Role.VIEWER).name == "operator ada"


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        ({}, "no single URI"),
        ({"x509_common_name": [b"pi4"]}, "no single URI"),
        (context("spiffe://c1/node/pi4", more=["spiffe://c1/node/other"]), "no single URI"),
        ({**NODE, "peer_spiffe_id": [b"spiffe://c1/node/a", b"spiffe://c1/node/b"]}, "no single URI"),
        (context("spiffe://c2/node/pi4"), "another cluster"),
        (context("spiffe://c1/dask/main/pi4"), "none of ours"),
        (context("spiffe://c1/node/.."), "none of ours"),
        ({**NODE, "peer_spiffe_id": [b"\xff"]}, "none of ours"),
        (context("spiffe://c1/daemon"), "daemon calls nobody"),
        ({"peer_spiffe_id": [b"spiffe://c1/node/pi4"]}, "cannot be read"),
    ],
)
def test_an_odd_certificate_is_nobody(peer: Mapping[str, Sequence[bytes]], reason: str) -> None:
    with pytest.raises(NotIdentified, match=reason) as refused:
        decide(SESSION, peer, Role.ADMIN)
    assert refused.value.advice


def test_a_revoked_certificate_and_a_forgotten_operator_are_refused() -> None:
    with pytest.raises(Revoked, match="node pi4 was revoked") as refused:
        access(revoked=True).authorize(SESSION, Listener.MUTUAL_TLS, "ipv4:1.2.3.4:5", NODE)
    assert isinstance(refused.value, ClusterAIError)
    assert refused.value.advice
    with pytest.raises(Revoked, match="operator ada"):
        decide(LIST_NODES, ADA, None)


@pytest.mark.parametrize("late", [-3600, 3600])
def test_a_certificate_that_ended_is_refused_whatever_tls_resumed(late: float) -> None:
    peer, then = context("spiffe://c1/node/pi4"), time.time() + LEAF_LIFETIME.total_seconds() + late
    gate = Access(CLUSTER, lambda _: False, lambda _: Role.ADMIN, lambda: then)
    if late < 0:
        assert gate.authorize(SESSION, Listener.MUTUAL_TLS, "ipv4:1.2.3.4:5", peer).name == "node pi4"
        return
    with pytest.raises(Ended, match="node pi4 ended on") as refused:
        gate.authorize(SESSION, Listener.MUTUAL_TLS, "ipv4:1.2.3.4:5", peer)
    assert refused.value.advice
    assert refused.value.status.exit_code == 4


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:5000", "10.0.0.7"),
        ("ipv6:%5B::1%5D:80", "::1"),
        ("ipv6:[fe80::1%25eth0]:80", "fe80::1%25eth0"),
        ("unix:", "unix:"),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    assert peer_address(peer) == address
