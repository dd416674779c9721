"""Tokenizer files of other programs: their supported features, their patterns, and the faults of
damaged files.
"""
