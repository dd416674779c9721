"""Checks of a model and of a machine: layers against those of `transformers`, numbers against
float64, and what fits into memory.
"""
