"""From what callers pass to what the input tensor holds, and the normalizations."""
