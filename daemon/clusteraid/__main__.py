"""`clusteraid`: the program, with OpenSSL's settings in place before anything loads it."""

import sys

from clusteraid import openssl


def main() -> int:
    """Run the command line and return the exit code."""
    openssl.load()
    from clusteraid import command  # brings asyncio, and with it OpenSSL

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
