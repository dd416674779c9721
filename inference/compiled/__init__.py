"""Paged attention compiled with numba: the lesson's result for all requests of a step at once."""
