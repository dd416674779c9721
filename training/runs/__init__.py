"""Whole training runs: pretraining and ablations, their validation, their checkpoints, and
finished runs that are not repeated.
"""
