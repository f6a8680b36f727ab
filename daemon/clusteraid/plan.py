"""What all nodes of a pool share, from the configuration and the lock."""

from clusterai.files import read_limited
from clusterai.lockfile import EnvironmentKey, lock, versions_in
from clusterai.v1.types_pb2 import EnvironmentSpec
from clusteraid.pool_config import MOBILE, PoolConfig
from clusteraid.pool_port import PoolPlan

# What must not differ within a pool: Dask, and what its messages and the users' objects are made with.
_COMPARED = ("dask", "distributed", "cloudpickle", "tornado")
_COMPILED = ("msgpack", "numpy", "bokeh")  # phones have Termux's, or none
_LOCK_LIMIT = 1 << 19  # it travels in one message


def pool_plan(config: PoolConfig) -> PoolPlan:
    """Return the pool's plan.

    Raises:
        BadFile, BadLock: the configured lock file cannot be used.
    """
    text = read_limited(config.lock_file, _LOCK_LIMIT).decode() if config.lock_file else lock()
    pinned = versions_in(text, config.python_minor)
    compared = _COMPARED if config.name == MOBILE else (*_COMPARED, *_COMPILED)
    environment = EnvironmentSpec(
        environment_hash=EnvironmentKey(config.python_minor, text).hash,
        python_minor=config.python_minor,
        versions={name: pinned[name] for name in compared if name in pinned},
    )
    return PoolPlan(config.name, environment, text)
