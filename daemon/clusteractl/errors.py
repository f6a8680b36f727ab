"""What can go wrong on this side of the wire."""

from clusterai.errors import ClusterAIError, Status


class SocketDenied(ClusterAIError):
    code, status = "socket-denied", Status.DENIED
    message = "you may not use the daemon's socket {socket}"
    hint = "run it with sudo, or join the group clusterai (`sudo usermod -aG clusterai {user}`) and log in again"


class NoSocket(ClusterAIError):
    code, status = "no-socket", Status.UNREACHABLE
    message = "there is no daemon's socket at {socket}"
    hint = "start the daemon (`sudo systemctl start clusteraid`, or `clusteraid local`), or leave --socket out"


class NoCluster(ClusterAIError):
    code, status = "no-cluster", Status.UNREACHABLE
    message = "no cluster to talk to: no daemon runs here ({socket}) and you are not logged in to another"
    hint = (
        "on the server: sudo systemctl start clusteraid\n"
        "elsewhere: clusteractl login --server HOST, with a token of `clusteractl token create --role operator`"
    )


class LoginExpired(ClusterAIError):
    code, status = "login-expired", Status.DENIED
    message = "your login as {operator} expired {ago}"
    hint = (
        "on the server: clusteractl token create --role operator --name {operator}\n"
        "then here: clusteractl login --server {host}"
    )


class NotLoggedIn(ClusterAIError):
    code, status = "not-logged-in", Status.NOT_FOUND
    message = "you are not logged in: {directory} holds no login"
    hint = "log in with: clusteractl login --server HOST"


class NotOperator(ClusterAIError):
    code, status = "not-an-operator", Status.USAGE
    message = "this token is for a {kind}, not for an operator"
    hint = "make one with: clusteractl token create --role operator"


class DrainFailed(ClusterAIError):
    code, status = "drain-failed", Status.FAILED
    message = "{node} is {state}, not drained: {reason}"
    hint = "see `clusteractl node show {node}`; drain again, or take it back with: clusteractl node undrain {node}"


class MissingInput(ClusterAIError):
    code, status = "missing-input", Status.USAGE
    message = "{what} is missing"
    hint = "{how}"


class UsageFault(ClusterAIError):
    """A command line that does not parse."""

    code, status = "usage", Status.USAGE
    message = "{sentence}"
    hint = "see: {command} --help"


class OtherEnvironment(ClusterAIError):
    code, status = "other-environment", Status.CONFLICT
    message = "{path} holds another environment: {difference}"
    hint = "give another path, or remove it first: rm -r {path}"
