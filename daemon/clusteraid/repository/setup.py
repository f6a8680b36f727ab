"""`setup.sh`: what a new machine runs to get its packages from here. The repository publishes it with its values."""

from importlib.resources import files


def setup_script(ca_pem: str, key: str, fingerprint: str) -> bytes:
    """Return the script with this cluster's values. Without `ca_pem` apt trusts the machine's own authorities."""
    text = files("clusteraid.repository").joinpath("setup.sh").read_text(encoding="utf-8")
    values = {"@CLUSTER_CA@": ca_pem.strip(), "@REPOSITORY_KEY@": key.strip(), "@FINGERPRINT@": fingerprint}
    for name, value in values.items():
        if "'" in value:
            raise ValueError(f"{name} holds a quote")
        text = text.replace(name, value)
    return text.encode()
