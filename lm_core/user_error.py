"""The error for what the user gave: a file, a setting, an argument.

It is the one error whose message `lm` prints as it is, in one line. Every other error is a mistake
in the code (ours, a library's or the learner's) and is reported as such, with its traceback in a
file. It is a `ValueError`, so that a caller in Python, and a test of a learner's own function, may
ask for that.
"""


class UserError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names the thing, what was expected, what was found and what to do.
    """
