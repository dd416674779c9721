"""Texts to train classifiers on, their model files, and their figures on held-out texts."""
