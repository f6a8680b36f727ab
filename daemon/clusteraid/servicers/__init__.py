"""Transport only: wire messages to the domain and back. Errors, logs and roles are the interceptor's."""
