"""The recipe, its steps, and the runner that skips the steps that have not changed."""
