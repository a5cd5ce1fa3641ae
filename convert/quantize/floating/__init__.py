"""What an int8 file computes in float because that is free on a CPU: its end, and islands around slow kernels."""
