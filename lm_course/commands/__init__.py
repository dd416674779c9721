"""The subcommands of `lm`, one module a group, and what a person may name in place of a path."""
