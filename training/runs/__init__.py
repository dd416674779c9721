"""Whole training runs: pretraining and ablations, validation, checkpoints, and a record of finished
runs.
"""
