"""Layer 4: the `lm` command, the recipe runner and the report."""
