"""What can go wrong with a wish about models."""

from clusterai.errors import ClusterAIError, Status


class NoSuchModel(ClusterAIError):
    code, status = "no-such-model", Status.NOT_FOUND
    message = "there is no model {model} in this cluster{closest}"
    hint = "`clusteractl model list` shows all models, `clusteractl model pull {model}` fetches one"

    def __init__(self, model: str, closest: tuple[str, ...] = ()) -> None:
        told = f"; there are {', '.join(closest)}" if closest else ""
        super().__init__(model=model, closest=told)


class NoPlace(ClusterAIError):
    code, status = "no-place", Status.FAILED
    message = "{model} cannot be placed {where}: {reasons}"
    hint = "`clusteractl model recommend` shows what fits; `clusteractl model pull {model} --dry-run` judges every node"
