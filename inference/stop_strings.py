"""Stop strings in a stream of text: show what is certain, hold back what may become a stop string.

    pieces "Hi", " E", "ND!" with the stop string "END":  push -> "Hi", " ", ""   (stopped)

A stop string often does not end where a piece of text (a token) ends, so it must be found across
pieces; and text that has been shown cannot be taken back. Each stop string is matched with the
automaton of Knuth, Morris and Pratt (1977, "Fast pattern matching in strings", section 2): its
state is how many characters of the stop string the text ends with, so no text is read twice.

What this leaves out: stop token ids (generation.py), and bytes of unfinished characters.
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
            raise UserError(f"stop must be a list of strings, got the string {stop!r}")
        if "" in stop:
            raise UserError(f"a stop string is empty, which would stop every text: {list(stop)}")
        self.stopped_by: str | None = None
        self._stop = list(stop)
        self._fallbacks = [fallbacks(each) for each in self._stop]
        self._matched = [0] * len(self._stop)
        self._held = ""

    def push(self, piece: str) -> str:
        """Take the next piece of the text, and return what can be shown after it.

        Held back is the longest end of the text that a stop string begins with. When a stop string
        is complete, `stopped_by` is set, and the text before it is returned. After that, every
        piece gives "".
        """
        if self.stopped_by is not None:
            return ""
        text = self._held + piece
        for position, character in enumerate(piece, len(self._held) + 1):
            for number, stop in enumerate(self._stop):
                self._matched[number] = self._next_state(number, character)
                if self._matched[number] == len(stop) and self.stopped_by is None:
                    self.stopped_by = stop
            if self.stopped_by is not None:
                self._held = ""
                return text[: position - len(self.stopped_by)]
        certain = len(text) - max(self._matched, default=0)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """Return what was held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held

    def _next_state(self, number: int, character: str) -> int:
        """Return how much of a stop string the text ends with after one more character."""
        stop, matched = self._stop[number], self._matched[number]
        while matched and stop[matched] != character:
            matched = self._fallbacks[number][matched - 1]
        return matched + (stop[matched] == character)


def fallbacks(stop: str) -> list[int]:
    """Return, for each beginning of a string, the length of the longest shorter beginning that it
    also ends with: [0, 1, 0] for "aab".
    """
    lengths = [0]
    for character in stop[1:]:
        matched = lengths[-1]
        while matched and stop[matched] != character:
            matched = lengths[matched - 1]
        lengths.append(matched + (stop[matched] == character))
    return lengths
