"""The MinHash lesson compiled with numba, for many documents at once: the same results."""
