"""Errors that several parts of the agent raise."""

from clusterai.errors import ClusterAIError, Status


class NotJoined(ClusterAIError):
    code, status = "not-joined", Status.FAILED
    message = "this machine has not joined a cluster: there is no {file}"
    hint = "on the server run `clusteractl token create`, then here `sudo clusterai-agent join`"
