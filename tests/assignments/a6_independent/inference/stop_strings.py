"""Independent solution of a6.8, written from the handout alone.

No automaton: the text that is held back is shorter than the longest stop string, so it can be
searched again together with the next piece.
"""

from collections.abc import Sequence

from lm_core.user_error import UserError


class StopStringFilter:
    """Passes on a text that comes in pieces, up to its first stop string.

    The first stop string is the one that is complete first; if several are complete at the same
    character, the one that is first in the list.

    Attributes:
        stopped_by: the stop string that ended the text, or None.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """Take the stop strings; without any, all text is passed on.

        Raises ValueError if `stop` is a single string or has an empty one.
        """
        if isinstance(stop, str):
            raise UserError(f"stop must be a list of strings, not one string; got {stop!r}")
        self._stop = tuple(stop)
        if "" in self._stop:
            raise UserError(f"a stop string must not be empty; got {list(self._stop)}")
        self._held = ""
        self.stopped_by: str | None = None

    def push(self, piece: str) -> str:
        """Take the next piece of the text, and return what can be shown after it.

        Held back is the longest end of the text that a stop string begins with. When a stop string
        is complete, `stopped_by` is set, and the text before it is returned. After that, every
        piece gives "".
        """
        if self.stopped_by is not None:
            return ""
        text = self._held + piece
        places = ((text.find(end), number, end) for number, end in enumerate(self._stop))
        complete = [(at + len(end), number, at) for at, number, end in places if at >= 0]
        if complete:
            _, number, shown = min(complete)  # the first in the list, if several end together
            self.stopped_by, self._held = self._stop[number], ""
        else:
            held = max((_overlap(text, end) for end in self._stop), default=0)
            shown = len(text) - held
            self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """Return what was held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of the text that is a beginning of the stop string, but
    not all of it.
    """
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
