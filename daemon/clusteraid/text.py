"""What nodes say, made safe to show."""

_SHORT = 64


def printable(text: str, limit: int = _SHORT) -> str:
    """Return the text as it can be shown in one line: no longer than the limit, spaces for what is not printable."""
    cut = text[:limit]
    return cut if cut.isprintable() else "".join(letter if letter.isprintable() else " " for letter in cut)
