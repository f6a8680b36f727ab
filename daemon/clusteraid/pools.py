"""All pools of the cluster, and which of them a machine belongs to: phones to `mobile`, every other to the main one."""

from collections.abc import Iterator, Sequence

from clusterai.errors import ClusterAIError, Status
from clusterai.v1.node_pb2 import NodeStatus
from clusterai.v1.types_pb2 import EnvironmentSpec, PoolSpec
from clusteraid.pool_config import MOBILE
from clusteraid.pool_port import PoolPort


class NoSuchPool(ClusterAIError):
    code, status = "no-such-pool", Status.NOT_FOUND
    message = "there is no pool {name}; there is {names}"
    hint = "`clusteractl status` shows all pools"


class MobileIsOff(ClusterAIError):
    code, status = "mobile-is-off", Status.FAILED
    message = "the pool mobile is off: [mobile] enabled in clusteraid.toml"
    hint = "on the server, write `enabled = true` below [mobile] in clusteraid.toml and restart clusteraid"


class Pools:
    """The main pool, and that of the phones where it is enabled."""

    def __init__(self, main: PoolPort, mobile: PoolPort | None = None) -> None:
        self.main, self._mobile = main, mobile

    def __iter__(self) -> Iterator[PoolPort]:
        yield self.main
        if self._mobile is not None:
            yield self._mobile

    def of(self, is_phone: bool) -> PoolPort | None:
        """Return the pool of a machine; None for a phone while `mobile` is off."""
        return self._mobile if is_phone else self.main

    def require(self, is_phone: bool) -> PoolPort:
        """Return the pool of a machine, or raise MobileIsOff."""
        pool = self.of(is_phone)
        if pool is None:
            raise MobileIsOff
        return pool

    def spec_for(self, is_phone: bool) -> PoolSpec | None:
        """Return what a machine is told about its pool."""
        pool = self.of(is_phone)
        return pool.spec() if pool is not None else None

    def find(self, name: str) -> PoolPort:
        """Return the pool of that name, the main one for none.

        Raises:
            NoSuchPool: there is none; the message names those that there are.
            MobileIsOff: it would be the phones'.
        """
        for pool in self:
            if name in ("", pool.plan.name):
                return pool
        if name == MOBILE:
            raise MobileIsOff
        raise NoSuchPool(name=repr(name[:64]), names=" and ".join(pool.plan.name for pool in self))

    def with_environment(self, environment_hash: str) -> PoolPort | None:
        """Return a pool that has this environment."""
        found = (pool for pool in self if pool.plan.environment.environment_hash == environment_hash)
        return next(found, None)

    def further_environments(self) -> Sequence[EnvironmentSpec]:
        """Return what the server's own agent builds beside the environment of its own pool: schedulers run in it."""
        own = self.main.plan.environment
        return [one.plan.environment for one in self if one.plan.environment.environment_hash != own.environment_hash]

    def built_here(self, status: NodeStatus) -> None:
        """Hear from the server's own agent how far the environments are."""
        told = {one.environment_hash: one for one in (status.environment, *status.further_environments)}
        for pool in self:
            if (found := told.get(pool.plan.environment.environment_hash)) is not None:
                pool.environment_told(found)
