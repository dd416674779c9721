"""Remember Ctrl-C, since a library that is being imported, or a step that fails because of it, may
swallow the exception.
"""

from typing import NoReturn


class Interrupts:
    """The handler of SIGINT while a command runs, and whether it has been called."""

    seen = False
    saved_after = ""  # the signal after which training has saved a checkpoint, such as "SIGTERM"

    @classmethod
    def take(cls, signal_number: int, frame: object) -> NoReturn:
        cls.seen = True
        raise KeyboardInterrupt

    @classmethod
    def raise_if_seen(cls) -> None:
        if cls.seen:
            raise KeyboardInterrupt
