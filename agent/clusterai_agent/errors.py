"""Errors that several parts of the agent raise."""

from pathlib import Path

from clusterai.errors import ClusterAIError, Status
from clusterai.termux import is_android, is_of_google_play

_ON_A_PHONE = "on the server run `clusteractl token create --phone`, and paste here the line that it prints"
_ELSEWHERE = "on the server run `clusteractl token create`, then here `sudo clusterai-agent join`"


class NotJoined(ClusterAIError):
    code, status = "not-joined", Status.FAILED
    message = "this machine has not joined a cluster: there is no {file}"
    hint = "{how}"

    def __init__(self, file: Path) -> None:
        super().__init__(file=file, how=_ON_A_PHONE if is_android() else _ELSEWHERE)


class WrongTermux(ClusterAIError):
    code, status = "wrong-termux", Status.FAILED
    message = "this is the Termux of Google Play, which is another distribution with other packages"
    hint = "remove it, and install Termux from F-Droid or from its page on GitHub"


def check_termux() -> None:
    """Refuse a Termux that cannot work; raise WrongTermux."""
    if is_of_google_play():
        raise WrongTermux
