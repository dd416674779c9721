"""The lessons of stage 1 compiled with numba: the same functions, the same results."""
