"""The subcommands of `lm`, one module for each group, and the names that may replace a path."""
