"""Calls of functions in an answer: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

This is the form of Qwen's and Hermes' chat templates. Which tools there are, the model learns from
its own template. What this leaves out: other forms (Llama's, Mistral's); their calls stay text.
"""

import json
import secrets
from typing import Any, NamedTuple

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Call(NamedTuple):
    """One call; the arguments are JSON, as OpenAI's API has them."""

    name: str
    arguments: str

    def as_json(self, index: int | None = None) -> dict[str, Any]:
        """Return the call as it stands in an answer; with an index, in a streamed one."""
        number = {} if index is None else {"index": index}
        function = {"name": self.name, "arguments": self.arguments}
        call_id = f"call_{secrets.token_hex(12)}"
        return {**number, "id": call_id, "type": "function", "function": function}


def read_call(text: str) -> Call | None:
    """Return the call that the text between the tags spells, None if it is none."""
    try:
        found = json.loads(text, parse_constant=_refuse)
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            return None
        arguments = found.get("arguments", found.get("parameters", {}))
        if isinstance(arguments, str):  # some models write the object as a text
            arguments = json.loads(arguments, parse_constant=_refuse)
        if not isinstance(arguments, dict):
            return None
        call = Call(found["name"], json.dumps(arguments, ensure_ascii=False))
        "".join(call).encode()  # half of a surrogate pair is not text
    except (ValueError, RecursionError):
        return None
    return call


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class ToolCallFilter:
    """Separates calls from text, in a stream of pieces.

    Args:
        forced: the whole answer is one call without tags, because its form was enforced.
    """

    def __init__(self, forced: bool = False) -> None:
        self._forced = forced
        self._inside = forced
        self._held = ""  # text that may become a tag, or what a call has spelled so far
        self.num_calls = 0

    def push(self, piece: str, ended: bool = False) -> tuple[str, list[Call]]:
        """Return the text that may be shown now, and the calls that are complete.

        Between the tags, all that is not a call is text. So is a call that the token limit cut.
        """
        searched = max(len(self._held) - len(CLOSE), 0)
        self._held += piece
        shown, calls = "", []
        while True:
            if self._inside:
                end = -1 if self._forced else self._held.find(CLOSE, searched)
                if end < 0 and not ended:
                    return shown, calls
                written = self._held if end < 0 else self._held[:end]
                self._held = "" if end < 0 else self._held[end + len(CLOSE) :]
                call = read_call(written)
                if call is None:
                    tags = ("", "") if self._forced else (OPEN, CLOSE if end >= 0 else "")
                    shown += tags[0] + written + tags[1]
                else:
                    calls.append(call)
                self._inside, searched = False, 0
                if end < 0:
                    break
            start = self._held.find(OPEN)
            if start < 0:
                break
            shown, self._held = shown + self._held[:start], self._held[start + len(OPEN) :]
            self._inside = True
        certain = len(self._held) if ended else len(self._held) - _held_back(self._held)
        shown, self._held = shown + self._held[:certain], self._held[certain:]
        self.num_calls += len(calls)
        return shown, calls


def _held_back(text: str) -> int:
    """Return how many characters at the end of a text an opening tag may begin with."""
    return max(size for size in range(len(OPEN)) if text.endswith(OPEN[:size]))
