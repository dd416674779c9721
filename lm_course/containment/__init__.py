"""Limits of a check: acts that are forbidden, and work that is counted."""
