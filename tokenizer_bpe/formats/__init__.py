"""Tokenizer files of other programs: what they may ask for, how their patterns are read, and
what is broken in a damaged one.
"""
