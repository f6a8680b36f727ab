"""The pool's lock: what it pins on a given Python, read without pip."""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from clusterai.errors import ClusterAIError, Status

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)\s*(?:;(?P<marker>.*))?")
_OPERAND = r"[\w.]+|'[^']*'|\"[^\"]*\""
_COMPARISON = rf"(?P<left>{_OPERAND})\s*(?P<op>[<>=!~]=|[<>]|not\s+in\b|in\b)\s*(?P<right>{_OPERAND})"
_TOKEN = re.compile(rf"\s*(?:(?P<word>and\b|or\b|[()])|{_COMPARISON})\s*")


class BadLock(ClusterAIError):
    code, status = "bad-lock", Status.FAILED
    message = "the environment's lock is not usable: {reason}"
    hint = "make it anew with scripts/lock-pool, or reinstall the package python3-clusterai"


@dataclass(frozen=True)
class EnvironmentKey:
    """What an environment is built from, hence what it is named by."""

    python_minor: str
    lock_text: str

    @property
    def hash(self) -> str:
        """16 hex digits: the name of the environment's directory on every node."""
        return hashlib.sha256(f"{self.python_minor}\n{self.lock_text}".encode()).hexdigest()[:16]


def lock() -> str:
    """Return the lock that this version of Cluster AI ships."""
    from importlib.resources import files  # phones, whose lock lies beside the modules, do without it

    return files("clusterai.data").joinpath("pool.lock").read_text(encoding="utf-8")


def versions_in(lock_text: str, python_minor: str) -> dict[str, str]:
    """Return what the lock installs here on this Python minor: package name to version.

    Raises:
        BadLock: a line that is no pin, or a marker that has no sense.
    """
    marks = _environment(python_minor)
    return dict(_pins(lock_text, marks))


def _pins(lock_text: str, marks: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for line in lock_text.replace("\\\n", " ").splitlines():
        text = re.sub(r"(^|\s)#.*|\s--hash=\S+", "", line).strip()
        if not text:
            continue
        pin = _PIN.fullmatch(text)
        if pin is None:
            raise BadLock(reason=f"not a pin: {text[:80]!r}")
        if not pin["marker"] or _Marker(pin["marker"], marks).holds():
            yield re.sub(r"[-_.]+", "-", pin["name"]).lower(), pin["version"]


def _environment(python_minor: str) -> dict[str, str]:
    """The marker variables of PEP 508 that hold on this machine for the Python minor."""
    return {
        "python_version": python_minor,
        "python_full_version": python_minor,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": os.name,
        "sys_platform": sys.platform,
        "platform_system": platform.system(),
        "platform_machine": platform.machine(),
    }


class _Marker:
    """An environment marker as uv writes them: comparisons, `and`, `or`, parentheses."""

    def __init__(self, text: str, marks: Mapping[str, str]) -> None:
        self._text, self._marks = text, marks
        self._tokens = list(self._read(text.strip()))

    def holds(self) -> bool:
        result = self._either()
        if self._tokens:
            raise self._bad()
        return result

    def _read(self, text: str) -> Iterator[re.Match[str]]:
        position = 0
        while position < len(text):
            token = _TOKEN.match(text, position)
            if token is None:
                raise self._bad()
            yield token
            position = token.end()

    def _bad(self) -> BadLock:
        return BadLock(reason=f"marker {self._text.strip()[:80]!r}")

    def _either(self) -> bool:
        result = self._both()
        while self._accepts("or"):
            result = self._both() or result
        return result

    def _both(self) -> bool:
        result = self._single()
        while self._accepts("and"):
            result = self._single() and result
        return result

    def _single(self) -> bool:
        if self._accepts("("):
            result = self._either()
            if not self._accepts(")"):
                raise self._bad()
            return result
        if not self._tokens or self._tokens[0]["word"]:
            raise self._bad()
        return self._compare(self._tokens.pop(0))

    def _accepts(self, word: str) -> bool:
        if self._tokens and self._tokens[0]["word"] == word:
            self._tokens.pop(0)
            return True
        return False

    def _compare(self, token: re.Match[str]) -> bool:
        left, right = self._value(token["left"]), self._value(token["right"])
        match token["op"].split():
            case ["in"]:
                return left in right
            case ["not", "in"]:
                return left not in right
            case [op] if "version" in token["left"]:
                return _ordered(_numbers(left), op, _numbers(right))
            case [op] if op in ("==", "!="):
                return (left == right) is (op == "==")
        raise self._bad()

    def _value(self, text: str) -> str:
        if text[0] in "'\"":
            return text[1:-1]
        if text not in self._marks:
            raise self._bad()
        return self._marks[text]


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor: a lock for a pool tells no patch releases apart."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _ordered(left: tuple[int, ...], op: str, right: tuple[int, ...]) -> bool:
    order = {
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
        "==": left == right,
        "!=": left != right,
    }
    if op not in order:
        raise BadLock(reason=f"comparison {op!r} in a marker")
    return order[op]
