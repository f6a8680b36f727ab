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


class NoSuchModel(ClusterAIError):
    code, status = "no-such-model", Status.NOT_FOUND
    message = "there is no model {model!r} in the cluster"
    hint = "see `clusteractl model list`; fetch it with: clusteractl model pull {model}"


class FitsNowhere(ClusterAIError):
    code, status = "fits-nowhere", Status.FAILED
    message = "no node can take {model}"
    hint = "see what fits with: clusteractl model catalog --fits; and which nodes there are with: clusteractl node list"


class PullFailed(ClusterAIError):
    code, status = "pull-failed", Status.FAILED
    message = "the pull of {model} has not come to its end: {reason}"
    hint = "nodes try again by themselves; see: clusteractl model list {model}"


class WhichNodes(ClusterAIError):
    code, status = "which-nodes", Status.USAGE
    message = "--node, --gpu and --replicas exclude each other"
    hint = "give one of them: --node tower --node nas, --gpu, or --replicas 2"


class DashboardOnly(ClusterAIError):
    code, status = "dashboard-only", Status.USAGE
    message = "a key of the dashboard opens no models"
    hint = "make two keys, one with --dashboard and one with --model {model}"


class TwoNames(ClusterAIError):
    code, status = "two-names", Status.USAGE
    message = "the key has two names, {first!r} and {second!r}"
    hint = "give one of them"


class NoAuthority(ClusterAIError):
    code, status = "no-authority", Status.FAILED
    message = "the server does not tell its certificate authority"
    hint = "it is older than this command: compare with `clusteractl version`"


class WhosePolicy(ClusterAIError):
    code, status = "whose-policy", Status.USAGE
    message = "a policy is of one node or of one class"
    hint = "give a node's name, or --class laptop, and not both"


class NothingToSet(ClusterAIError):
    code, status = "nothing-to-set", Status.USAGE
    message = "nothing is to be set"
    hint = "give KEY=VALUE, or --reset; `clusteractl policy show` lists the keys"


class PhoneIsNode(ClusterAIError):
    code, status = "phone-is-node", Status.USAGE
    message = "a phone is a node, not {role}"
    hint = "leave out one of --phone and --role"


class NoPhonePackages(ClusterAIError):
    code, status = "no-packages", Status.FAILED
    message = "the server publishes no packages that a phone could get"
    hint = "on the server: sudo clusteraid repo add dist/termux/*.deb"
