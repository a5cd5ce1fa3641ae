"""One mode's file: quantized, corrected, packaged, with golden vectors, as C."""
