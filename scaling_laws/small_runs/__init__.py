"""The small runs that a loss surface is fitted to: training, their table, and reasons to doubt the
fit.
"""
