"""The server's package repository: signed apt repositories for Debian and for Termux, plain files for the gateway."""
