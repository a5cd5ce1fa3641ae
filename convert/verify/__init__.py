"""What was made is run: every runtime, drift, latency, NPU compiler, batch."""
