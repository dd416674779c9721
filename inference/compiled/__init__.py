"""Attention over blocks and products of quantized weights, compiled with numba for CPUs."""
