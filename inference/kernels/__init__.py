"""Paged attention on a GPU: a Triton kernel and its launcher."""
