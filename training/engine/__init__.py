"""Faster training steps, a stop for runs that diverge, and training on many ranks, with the same
numbers to rounding.
"""
