"""The agent's view of the units' configuration."""

from clusterai.units import UnitsConfig
from clusterai_agent.config import AgentConfig


def units_config(config: AgentConfig) -> UnitsConfig:
    """Return where what this machine's units start is kept and who runs them."""
    return UnitsConfig(
        back_end=config.units.back_end.value,
        state_directory=config.state.directory,
        launch_directories={
            "clusterai-worker": config.state.compute_directory / "workers",
            "clusterai-gate": config.state.gate,
            "clusterai-mirror": config.state.gate,
        },
        stop_on_exit=config.units.stop_on_exit,
    )
