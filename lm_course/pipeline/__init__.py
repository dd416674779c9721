"""The recipe, its steps, and the runner that repeats none in vain."""
