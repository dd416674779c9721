"""A decoder's layers for CPUs, compiled with numba: attention over blocks, products of weights."""
