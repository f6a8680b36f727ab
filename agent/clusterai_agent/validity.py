"""Whether a node certificate can be used now, and what a person must do if not."""

from datetime import datetime

from clusterai.credentials import Credentials
from clusterai.errors import ClusterAIError, Status
from clusterai.termux import how_to_set_the_clock


class CertificateExpired(ClusterAIError):
    code, status = "certificate-expired", Status.FAILED
    message = "the certificate of node {node} ended on {ended}; by this machine's clock it is now {now}"
    hint = (
        "if the clock is right: on the server run `clusteractl token create --name {node}`, "
        "then here `clusterai-agent join --force --name {node}`"
    )

    def __init__(self, node: str, ended: datetime, now: datetime) -> None:
        super().__init__(node=node, ended=f"{ended:%F %T} UTC", now=f"{now:%F %T} UTC")


class CertificateNotYetValid(ClusterAIError):
    code, status = "certificate-not-yet-valid", Status.FAILED
    message = "the certificate of node {node} begins on {begins}; by this machine's clock it is now {now}"
    hint = "this machine's clock is wrong: {fix}; the agent then connects by itself"

    def __init__(self, node: str, begins: datetime, now: datetime) -> None:
        fix = how_to_set_the_clock()
        super().__init__(node=node, begins=f"{begins:%F %T} UTC", now=f"{now:%F %T} UTC", fix=fix)


def check_validity(credentials: Credentials, node: str, now: datetime) -> None:
    """Raise CertificateExpired or CertificateNotYetValid with what a person must do."""
    if now >= credentials.not_after:
        raise CertificateExpired(node, credentials.not_after, now)
    if now < credentials.not_before:
        raise CertificateNotYetValid(node, credentials.not_before, now)
