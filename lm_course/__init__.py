"""Layer 4: the `lm` command, the recipe runner, the report and the grader."""
