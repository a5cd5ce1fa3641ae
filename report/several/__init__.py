"""Several candidates at once: one reference pass, paired differences, and which of them to ship."""
