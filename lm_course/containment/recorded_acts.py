"""A record that a check's child, its threads and its forks write, and that the grader reads.

It is shared memory, so an act is known although the code that did it catches the exception, or ends
its process. What this leaves out: programs that the code under test starts anew.
"""

import mmap
from typing import NamedTuple

SLOT = 4096  # bytes of one kind of act; the first act of each kind is kept
FORBIDDEN, FAILING = 0, 1  # the two kinds


class Act(NamedTuple):
    """One sentence that names an act, and the learner's line that did it (or "")."""

    sentence: str
    place: str = ""


class RecordedActs:
    """The first forbidden act of a check, and the first that only fails the check."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * SLOT)

    def clear(self) -> None:
        """Forget everything; called before each check."""
        for kind in (FORBIDDEN, FAILING):
            self._memory[kind * SLOT] = 0

    def record(self, kind: int, act: Act) -> None:
        """Keep this act if it is the first of its kind."""
        begin = kind * SLOT
        if self._memory[begin]:
            return
        text = "\n".join(act).encode("utf-8", "backslashreplace")[: SLOT - 3]
        self._memory[begin + 1 : begin + 2 + len(text)] = text + b"\0"
        self._memory[begin] = 1  # last: whoever reads sees a whole text

    def first(self, kind: int) -> Act | None:
        """Return the first act of this kind since `clear`; None if there was none."""
        begin = kind * SLOT
        if not self._memory[begin]:
            return None
        text = self._memory[begin + 1 : begin + SLOT].partition(b"\0")[0]
        sentence, _, place = text.decode("utf-8", "replace").partition("\n")
        return Act(sentence, place)
