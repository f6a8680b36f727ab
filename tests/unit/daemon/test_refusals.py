"""Every refusal of joining and access is a sentence and a hint with a code of its own."""

import re
from collections.abc import Iterator

import pytest

from clusterai import approval, enroll_client, errors, files, keytool, remote, tokens
from clusterai.errors import ClusterAIError
from clusteraid import access, approvals, attempts, authority, enrollment, join_tokens, operators

MODULES = (
    access, approval, approvals, attempts, authority, enroll_client, enrollment, errors, files, join_tokens, keytool,
    operators, remote, tokens,
)  # fmt: skip


def refusals() -> Iterator[type[ClusterAIError]]:
    """The errors that these modules define."""
    for module in MODULES:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, ClusterAIError) and value.__module__ == module.__name__:
                yield value


REFUSALS = [kind for kind in refusals() if kind is not ClusterAIError]


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_says_what_failed_and_what_to_do(kind: type[ClusterAIError]) -> None:
    assert len(REFUSALS) > 30
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
    assert kind.message[0] == "{" or kind.message[0].islower()
    assert not kind.message.endswith(".")
    assert kind.hint or kind is keytool.Usage


def test_no_two_refusals_share_a_code() -> None:
    codes = [kind.code for kind in REFUSALS if kind is not remote.RemoteError]
    assert sorted(codes) == sorted(set(codes))
