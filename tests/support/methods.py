"""Every gRPC method of the protocol."""

from clusterai.v1 import (
    cluster_pb2,
    enrollment_pb2,
    event_pb2,
    key_pb2,
    log_pb2,
    model_pb2,
    node_admin_pb2,
    node_pb2,
    operator_pb2,
    policy_pb2,
    token_pb2,
    unit_pb2,
    worker_pb2,
)

_FILES = (
    cluster_pb2, enrollment_pb2, event_pb2, key_pb2, log_pb2, model_pb2, node_admin_pb2, node_pb2,
    operator_pb2, policy_pb2, token_pb2, unit_pb2, worker_pb2,
)  # fmt: skip
METHODS = frozenset(
    f"{service.name}/{method.name}"
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
