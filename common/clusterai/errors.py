"""The one error family: a stable code, a sentence for the person, and a hint what to do."""

from enum import Enum


class Status(Enum):
    """How an error ends: the name of its gRPC status code and the exit code of a command."""

    FAILED = ("FAILED_PRECONDITION", 1)
    INTERNAL = ("INTERNAL", 1)
    EXHAUSTED = ("RESOURCE_EXHAUSTED", 1)
    CONFLICT = ("ALREADY_EXISTS", 1)
    USAGE = ("INVALID_ARGUMENT", 2)
    NOT_FOUND = ("NOT_FOUND", 3)
    DENIED = ("PERMISSION_DENIED", 4)
    UNKNOWN_CALLER = ("UNAUTHENTICATED", 4)
    UNREACHABLE = ("UNAVAILABLE", 5)
    TIMED_OUT = ("DEADLINE_EXCEEDED", 5)

    @property
    def grpc_name(self) -> str:
        """The name of the `grpc.StatusCode` member."""
        return self.value[0]

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this error."""
        return self.value[1]


class ClusterAIError(Exception):
    """Base of every error that a person may see. Subclasses set the four fields; details fill their braces."""

    code: str = "internal"
    status: Status = Status.INTERNAL
    message: str = "internal error"
    hint: str = ""

    def __init__(self, **details: object) -> None:
        super().__init__(details)
        self.details = details

    def __str__(self) -> str:
        return self.message.format(**self.details)

    @property
    def advice(self) -> str:
        """The hint with the details filled in; empty when there is none."""
        return self.hint.format(**self.details)


class InvalidName(ClusterAIError):
    code, status = "invalid-name", Status.USAGE
    message = "{what} {name!r} is not a valid name"
    hint = "use 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"


class Unreachable(ClusterAIError):
    code, status = "unreachable", Status.UNREACHABLE
    message = "cannot reach {target}: {reason}"
    hint = "{fix}"

    def __init__(self, target: str, reason: str = "no answer", fix: str = "") -> None:
        default = "check that clusteraid runs there (`systemctl status clusteraid`), and its port and firewall"
        super().__init__(target=target, reason=reason, fix=fix or default)


class TimedOut(ClusterAIError):
    code, status = "timed-out", Status.TIMED_OUT
    message = "{what} took longer than {limit}"
    hint = "try again; if it stays slow, look at `clusteractl status` and the journal"


class BadRequest(ClusterAIError):
    """What came over the wire has no sense; `what` names the field, `reason` says why."""

    code, status = "bad-request", Status.USAGE
    message = "{what}: {reason}"
    hint = "both sides may run different versions: compare `clusteractl version` with the agent's"
