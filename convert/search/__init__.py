"""Which layers should not be int8, and which file keeps the limits."""
