"""Configuration: what is refused, and how it is said."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from clusterai.config import ConfigError, Section, decode, read_toml

FILE = Path("/etc/clusterai/clusteraid.toml")


class BackEnd(Enum):
    SYSTEMD = "systemd"
    PROCESS = "process"


@dataclass(frozen=True)
class Server(Section):
    port: int = 7443
    listen: str = "0.0.0.0"
    advertise: tuple[str, ...] = ()
    state: Path = Path("/var/lib/clusterai")
    heartbeat: float = 5.0
    announce: bool = True
    back_end: BackEnd = BackEnd.SYSTEMD

    def validate(self) -> None:
        if not 0 <= self.port < 65536:
            self.reject("port", self.port, "must be 0 to 65535")
        if self.heartbeat <= 0:
            raise ValueError("heartbeat", "must be above 0")


@dataclass(frozen=True)
class Config:
    server: Server = field(default_factory=Server)
    level: str = "info"
    python: str | None = None


def test_an_empty_file_gives_the_defaults() -> None:
    assert decode(Config, {}, file=FILE) == Config()


def test_every_kind_of_value_is_decoded() -> None:
    table = {
        "server": {
            "port": 0,
            "advertise": ["a", "b"],
            "state": "/srv",
            "heartbeat": 2,
            "announce": False,
            "back_end": "process",
        },
        "python": "3.11",
    }
    config = decode(Config, table, file=FILE)
    assert config.server == Server(
        0, "0.0.0.0", ("a", "b"), Path("/srv"), 2.0, announce=False, back_end=BackEnd.PROCESS
    )
    assert type(config.server.heartbeat) is float
    assert config.python == "3.11"


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"sever": {}}, "/etc/clusterai/clusteraid.toml: sever = {}: unknown key; known are level, python, server"),
        ({"server": {"prt": 1}}, "clusteraid.toml: server.prt = 1: unknown key"),
        ({"server": {"port": "7443"}}, "server.port = '7443': must be an integer, not a string"),
        ({"server": {"port": True}}, "server.port = True: must be an integer, not true or false"),
        ({"server": {"announce": 1}}, "server.announce = 1: must be true or false, not an integer"),
        ({"server": {"advertise": "a"}}, "server.advertise = 'a': must be a list, not a string"),
        ({"server": {"advertise": [1]}}, "server.advertise = 1: must be a string, not an integer"),
        ({"server": {"back_end": "upstart"}}, "server.back_end = 'upstart': must be one of 'systemd', 'process'"),
        ({"server": {"state": ""}}, "server.state = '': must be a path"),
        ({"server": {"state": "a\0b"}}, "server.state = 'a\\x00b': must be a path"),
        ({"server": {"port": 70000}}, "server.port = 70000: must be 0 to 65535"),
        ({"server": {"heartbeat": 0}}, "server.heartbeat = 0.0: must be above 0"),
        ({"server": 7}, "server = 7: must be a table, not an integer"),
        ({"level": 3}, "level = 3: must be a string, not an integer"),
    ],
)
def test_a_refusal_names_file_key_value_and_reason(table: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        decode(Config, table, file=FILE)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith(str(FILE))
    assert "--check-config" in refused.value.advice


def test_a_huge_value_is_shown_short() -> None:
    with pytest.raises(ConfigError) as refused:
        decode(Config, {"level": ["x" * 10_000]}, file=FILE)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("content", [b"[server", b"a = \xff", b"a = 1\na = 2", b"\0"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"agent\.toml: not TOML"):
        read_toml(tmp_path / "agent.toml")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        read_toml(tmp_path / "none.toml")
