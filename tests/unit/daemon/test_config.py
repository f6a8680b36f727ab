"""The daemon's configuration of its pools."""

from pathlib import Path

import pytest

from clusterai.config import ConfigError
from clusterai.lockfile import BadLock, lock, versions_in
from clusteraid.config import DaemonConfig, load_config
from clusteraid.plan import pool_plan
from clusteraid.pool_config import MobileConfig, PoolConfig


def loaded(directory: Path, text: str) -> DaemonConfig:
    file = directory / "clusteraid.toml"
    file.write_text(text)
    return load_config(file)


def test_without_a_word_there_is_one_pool(tmp_path: Path) -> None:
    assert loaded(tmp_path, "").pools == (PoolConfig(),)
    assert loaded(tmp_path, '[mobile]\npython = "3.13"\n').pools == (PoolConfig(),)


def test_the_pool_of_phones_has_its_own_ports_and_python_and_lies_beside_the_other(tmp_path: Path) -> None:
    text = '[pool]\nscheduler_host = "127.0.0.1"\nscheduler_directory = "/srv/s"\n[mobile]\nenabled = true\n'
    main, mobile = loaded(tmp_path, text).pools
    assert (main.name, main.scheduler_port, main.dashboard_port) == ("main", 8786, 8787)
    assert (mobile.name, mobile.scheduler_port, mobile.dashboard_port) == ("mobile", 8788, 8789)
    assert (mobile.python_minor, mobile.scheduler_host) == ("3.14", "127.0.0.1")
    assert mobile.scheduler_directory == main.scheduler_directory == Path("/srv/s")
    assert mobile.socket != main.socket


def test_the_socket_of_the_main_scheduler_is_not_that_of_the_phones(tmp_path: Path) -> None:
    text = '[pool]\ncontrol_socket = "/run/x.sock"\n[mobile]\nenabled = true\n'
    main, mobile = loaded(tmp_path, text).pools
    assert main.socket == Path("/run/x.sock")
    assert mobile.socket == Path("/run/clusterai-dask/mobile.sock")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('python = "3"', r"mobile\.python = '3': must be a minor"),
        ("scheduler_port = 70000", r"mobile\.scheduler_port = 70000: must be 0 to 65535"),
        ("scheduler_port = 8786", r"mobile\.scheduler_port = 8786: must differ"),
        ("dashboard_port = 8787", r"mobile\.dashboard_port = 8787: must differ"),
        ("dashboard_port = 8788", r"mobile\.dashboard_port = 8788: must differ"),
        ('enabled = "yes"', r"mobile\.enabled = 'yes': must be true or false"),
        ('name = "phones"', r"mobile\.name = 'phones': unknown key"),
    ],
)  # fmt: skip
def test_a_pool_of_phones_that_makes_no_sense_is_refused(tmp_path: Path, text: str, says: str) -> None:
    enabled = "" if text.startswith("enabled") else "enabled = true\n"
    with pytest.raises(ConfigError, match=says):
        loaded(tmp_path, f"[mobile]\n{enabled}{text}\n")


def test_two_pools_of_one_name_are_refused(tmp_path: Path) -> None:
    assert loaded(tmp_path, '[pool]\nname = "mobile"\n').pool.name == "mobile"
    with pytest.raises(ConfigError, match=r"pool\.name = 'mobile': it is the pool of the phones"):
        loaded(tmp_path, '[pool]\nname = "mobile"\n[mobile]\nenabled = true\n')


def test_any_free_port_is_no_clash(tmp_path: Path) -> None:
    ports = "scheduler_port = 0\ndashboard_port = 0\n"
    assert len(loaded(tmp_path, f"[pool]\n{ports}[mobile]\nenabled = true\n{ports}").pools) == 2


def test_what_termux_brings_is_not_compared() -> None:
    mobile, main = pool_plan(MobileConfig().pool(PoolConfig())), pool_plan(PoolConfig())
    assert mobile.name == "mobile"
    assert mobile.environment.python_minor == "3.14"
    assert set(mobile.environment.versions) == {"dask", "distributed", "cloudpickle", "tornado"}
    assert {"msgpack", "numpy", "bokeh"} < set(main.environment.versions)
    assert mobile.environment.versions["dask"] == versions_in(lock(), "3.14")["dask"]


def test_a_lock_of_its_own_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "phones.lock"
    file.write_text("dask>=2026\n")
    with pytest.raises(BadLock, match="not a pin"):
        pool_plan(MobileConfig(lock_file=file).pool(PoolConfig()))
