"""Is this file right and how fast here: golden vectors, self-test, timing, own processes."""
