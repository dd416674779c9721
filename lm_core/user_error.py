"""The error for bad input from the user: a file, a setting, an argument.

It is the only error whose message `lm` prints unchanged, in one line. Every other error is a
mistake in code (ours, a library's or the learner's) and is reported as such, with its traceback in
a file. It is a `ValueError`, so that a caller in Python, and a test of a learner's own function,
can expect that.
"""


class UserError(ValueError):
    """The user's input cannot be used.

    The message is one line that names the input, what was expected, what was found and what to do.
    """
