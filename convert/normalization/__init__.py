"""The normalization in that graph: recognised, proved, guarded, frozen."""
