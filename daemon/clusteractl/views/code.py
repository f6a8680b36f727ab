"""A QR code on a terminal, where the package python3-segno is installed."""

import io


def scannable(text: str, width: int) -> str:
    """Return the code as lines of block characters, or one that says why there is none. `width` is in columns."""
    try:
        import segno
    except ImportError:
        return "For a code to scan: sudo apt install python3-segno"
    code = segno.make_qr(text, error="l", boost_error=False)
    needed = code.symbol_size()[0]
    if needed > width:
        return f"For a code to scan make the terminal {needed} columns wide, or its letters smaller."
    drawn = io.StringIO()
    code.terminal(drawn, compact=True)
    return drawn.getvalue().rstrip("\n")
