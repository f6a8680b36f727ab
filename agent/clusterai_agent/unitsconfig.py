"""The agent's view of the units' configuration."""

from clusterai.units import UnitsConfig
from clusterai_agent.config import AgentConfig


def units_config(config: AgentConfig) -> UnitsConfig:
    """Return where this machine's worker units are kept and who runs them."""
    return UnitsConfig(
        back_end=config.units.back_end.value,
        state_directory=config.state.directory,
        launch_directories={"clusterai-worker": config.state.compute_directory / "workers"},
        stop_on_exit=config.units.stop_on_exit,
    )
