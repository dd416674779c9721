"""Questions, answers and preference pairs, mined from docstrings."""
