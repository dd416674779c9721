"""Counts of 64-bit hashes in few bytes, and the hashes that repeat."""
