"""What a check finds, in the form in which it is told."""

from collections.abc import Awaitable, Callable, Sequence

from clusterai.v1.cluster_pb2 import (
    CHECK_OUTCOME_FAILED,
    CHECK_OUTCOME_NOT_APPLICABLE,
    CHECK_OUTCOME_OK,
    CHECK_OUTCOME_WARNING,
    CheckResult,
)

Check = Callable[[], Awaitable[CheckResult]]
_LISTED = 5


def ok(message: str) -> CheckResult:
    """All is well."""
    return CheckResult(outcome=CHECK_OUTCOME_OK, message=message)


def warning(message: str, fix: str) -> CheckResult:
    """It works, and somebody should look at it."""
    return CheckResult(outcome=CHECK_OUTCOME_WARNING, message=message, fix=fix)


def failed(message: str, fix: str) -> CheckResult:
    """It does not work."""
    return CheckResult(outcome=CHECK_OUTCOME_FAILED, message=message, fix=fix)


def not_applicable(message: str) -> CheckResult:
    """There is nothing to check here."""
    return CheckResult(outcome=CHECK_OUTCOME_NOT_APPLICABLE, message=message)


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list that may be long."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
