"""The interpreters that run it, one file a backend, and the registry of them."""
