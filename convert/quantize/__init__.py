"""Int8 from the float graph: ranges, equalization, precision of each layer."""
