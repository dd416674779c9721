"""From the tokens of one answer to its text: whole characters only, and nothing of a stop string.

What this leaves out: which tokens these are (engine_thread.py), and how the text is sent
(inference/server).
"""

import codecs
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from inference.engine.batch_requests import NewToken
from inference.stop_strings import StopStringFilter


class PlacedToken(NamedTuple):
    """A token of the answer, and the number of characters before it."""

    token: NewToken
    offset: int


@dataclass
class AnswerText:
    """The text of one sample, as far as it may be shown.

    Attributes:
        vocab: token id -> bytes.
        silent: ids without a text, such as control tokens.
        stop: strings that end the answer and do not belong to it.
        finish_reason: "stop" or "length" once the answer has ended.
    """

    vocab: Mapping[int, bytes]
    silent: Collection[int] = ()
    stop: Sequence[str] = ()
    finish_reason: str | None = None
    _filter: StopStringFilter = field(init=False)
    _num_decoded: int = 0  # characters
    _num_shown: int = 0
    _held: list[PlacedToken] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._filter = StopStringFilter(self.stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, event: NewToken) -> tuple[str, list[PlacedToken]]:
        """Take the next token or the end of the answer; return the text that may now be shown, and
        the tokens that it begins in. Tokens of which a stop string leaves nothing are never
        returned.
        """
        text = ""
        if event.token_id is not None:
            self._held.append(PlacedToken(event, self._num_decoded))
            if event.token_id in self.vocab and event.token_id not in self.silent:
                text = self._decoder.decode(self.vocab[event.token_id])
        if event.finish_reason is not None:
            self.finish_reason = event.finish_reason.value
            text += self._decoder.decode(b"", final=True)
        self._num_decoded += len(text)
        shown = self._filter.push(text)
        if self._filter.stopped_by is not None:
            self.finish_reason = "stop"
        elif self.finish_reason is not None:
            shown += self._filter.finish()
        self._num_shown += len(shown)
        return shown, self._certain_tokens()

    def _certain_tokens(self) -> list[PlacedToken]:
        """Return, once, the tokens that begin in the text shown so far; at an end without a stop
        string, all.
        """
        ended = self.finish_reason is not None and self._filter.stopped_by is None
        held = self._held
        count = sum(ended or each.offset < self._num_shown for each in held)
        self._held = held[count:]
        return held[:count]
