"""agent.toml: what it may say, and how an error names the place."""

from pathlib import Path

import pytest

from clusterai.config import ConfigError
from clusterai_agent.config import BackEnd, load_config


def written(directory: Path, text: str) -> Path:
    path = directory / "agent.toml"
    path.write_text(text)
    return path


def test_an_empty_file_gives_the_packaged_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, ""))
    assert config.state.directory == Path("/var/lib/clusterai-agent")
    assert config.state.shown_in == Path("/run/clusterai-agent")
    assert config.units.back_end is BackEnd.SYSTEMD
    assert config.server.discover


def test_another_state_directory_keeps_its_status_with_it(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, f'[state]\ndirectory = "{tmp_path}"'))
    assert config.state.shown_in == tmp_path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\naddress = []", ("server.address", "unknown key")),
        ('[server]\naddresses = ["a b"]', ("server.addresses", "'a b'", "HOST or HOST:PORT")),
        ('[units]\nback_end = "docker"', ("units.back_end", "'docker'", "must be one of")),
        ("[worker]\nthreads = -1", ("worker.threads", "-1")),
        ('[worker]\nenabled = "yes"', ("worker.enabled", "'yes'", "true or false")),
        ("[worker]\nmemory_fraction = 2", ("worker.memory_fraction", "2")),
        ('[policy]\nmachine_class = "toaster"', ("policy.machine_class", "'toaster'", "'laptop'")),
        ('[log]\nlevel = "loud"', ("log.level", "'loud'")),
        ("[nonsense]", ("nonsense", "unknown key")),
        ("not toml", ("not TOML",)),
    ],
)
def test_a_bad_file_is_refused_with_file_key_and_reason(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    for part in (str(path), *said):
        assert part in str(refused.value)


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.toml")


def test_a_server_on_loopback_is_this_machine(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, '[server]\naddresses = ["127.0.0.1:5"]')).server.is_local
    assert not load_config(written(tmp_path, '[server]\naddresses = ["tower"]')).server.is_local
    assert not load_config(written(tmp_path, "")).server.is_local
