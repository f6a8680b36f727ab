"""What can go wrong between the agent and Ollama."""

from clusterai.errors import ClusterAIError, Status


class OllamaAway(ClusterAIError):
    code, status = "ollama-away", Status.UNREACHABLE
    message = "Ollama does not answer at {address}: {reason}"
    hint = "see `systemctl status ollama` and `journalctl -u ollama`"


class OllamaOdd(ClusterAIError):
    code, status = "ollama-odd", Status.FAILED
    message = "what answers at {address} does not answer as Ollama does: {reason}"
    hint = "set `address` in the section [ollama] of agent.toml to where Ollama listens"


class OllamaForged(OllamaOdd):
    code, status = "ollama-forged", Status.FAILED
    message = "what listens at {address} is not Ollama: it is of the user {user}, as which Dask runs tasks"
    hint = "`sudo ss -ltnp` names the process: end it, then `sudo systemctl restart ollama`"


class OllamaRefused(ClusterAIError):
    """Ollama answered with an error of its own."""

    code, status = "ollama-refused", Status.FAILED
    message = "Ollama says: {reason}"
    hint = "see `journalctl -u ollama`"

    def __init__(self, reason: str, http_status: int = 0) -> None:
        super().__init__(reason=reason[:500])
        self.http_status = http_status
