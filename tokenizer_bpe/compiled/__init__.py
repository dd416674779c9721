"""The lessons of stage 1 again, compiled with numba: the same functions, the same results."""
