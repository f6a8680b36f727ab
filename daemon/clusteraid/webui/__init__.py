"""Open WebUI on the server: installed from a lock, with settings and a key of its own."""
