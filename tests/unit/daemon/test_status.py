"""What the daemon says of itself and of what it serves."""

from types import SimpleNamespace
from typing import Any

from clusterai.v1.cluster_pb2 import ModelsStatus, PoolStatus
from clusteraid.status import AboutServer, Problems, StatusReport


def report(*models: Any) -> StatusReport:
    """A report of a server without nodes."""
    reach: Any = SimpleNamespace(at_first_host=lambda address: address, cluster=lambda: ("tower:7443",))
    nodes: Any = SimpleNamespace(counts=dict)
    pool: Any = SimpleNamespace(status=PoolStatus, workers=())
    store: Any = SimpleNamespace(problem="")
    about = AboutServer("c-1", bytes(32), b"-----BEGIN CERTIFICATE-----\n", "", reach)
    return StatusReport(about, nodes, pool, store, Problems(), *models)


def test_the_authority_is_told_as_text_that_a_file_can_hold() -> None:
    assert report().response(0).ca_pem == "-----BEGIN CERTIFICATE-----\n"


def test_models_are_told_as_they_are_at_the_time_and_not_at_all_where_there_is_no_gateway() -> None:
    assert not report().response(0).HasField("models")
    served = ModelsStatus(model_count=1, gateway_state="running")
    told = report(lambda: served)
    assert told.response(0).models == served
    served.model_count = 2
    assert told.response(0).models.model_count == 2
