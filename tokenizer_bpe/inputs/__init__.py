"""Inputs shared by all lessons: checked arguments, and text files read in blocks."""
