"""Answers as /v1/chat/completions has them, streamed and whole, with calls of tools.

What this leaves out: texts without a conversation (completion_text.py).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.answering.answer_text import PlacedToken
from inference.answering.tool_calls import ToolCallFilter
from inference.server.answers import Piece, logprob_entry
from inference.server.api_fields import ChatFields
from inference.server.served_model import ServedModel


@dataclass
class _Message:
    """One answer so far.

    Attributes:
        separate: takes calls out of its text; None without tools.
        content: its text.
        calls: of tools, as JSON.
        logprobs: of all tokens.
        num_sent: log-probabilities that were sent.
        reason: why it ended.
    """

    separate: ToolCallFilter | None
    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    num_sent: int = 0
    reason: str | None = None


class ChatWriter:
    """Writes the answers of one request.

    Args:
        model: gives tokens their text.
        fields: the request.
    """

    object, chunk_object = "chat.completion", "chat.completion.chunk"

    def __init__(self, model: ServedModel, fields: ChatFields) -> None:
        self.model, self.fields = model, fields
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self._messages: dict[int, _Message] = {}

    def begins(self, index: int) -> list[dict[str, Any]]:
        """Return what is sent before the first token of an answer."""
        return [self._delta(index, {"role": "assistant", "content": ""})]

    def choices(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """Return what this piece adds; nothing if it shows nothing."""
        message = self._message(index)
        text, calls = piece.text, []
        if message.separate is not None:
            text, calls = message.separate.push(piece.text, piece.finish_reason is not None)
        first = len(message.calls)
        listed = [call.as_json(first + number) for number, call in enumerate(calls)]
        message.content += text
        message.calls += listed
        message.logprobs += self._entries(piece.tokens)
        message.reason = piece.finish_reason
        if message.reason == "stop" and message.calls:
            message.reason = "tool_calls"
        deltas = []
        if text:
            deltas.append(self._delta(index, {"content": text}))
        if listed:
            deltas.append(self._delta(index, {"tool_calls": listed}))
        if message.reason is not None:
            deltas.append(self._delta(index, {}, message.reason))
        if deltas and self.fields.logprobs and message.num_sent < len(message.logprobs):
            deltas[0]["logprobs"] = {"content": message.logprobs[message.num_sent :]}
            message.num_sent = len(message.logprobs)
        return deltas

    def whole(self, index: int) -> dict[str, Any]:
        """Return a complete answer, after `choices` has seen all its pieces."""
        found = self._messages[index]
        message: dict[str, Any] = {"role": "assistant", "content": found.content}
        if found.calls:
            message["content"] = found.content or None
            message["tool_calls"] = [
                {key: value for key, value in call.items() if key != "index"}
                for call in found.calls
            ]
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": found.logprobs} if self.fields.logprobs else None,
            "finish_reason": found.reason,
        }

    def _message(self, index: int) -> _Message:
        if index not in self._messages:
            fields = self.fields
            separate = ToolCallFilter(fields.must_call) if fields.offered_tools else None
            self._messages[index] = _Message(separate)
        return self._messages[index]

    def _delta(
        self, index: int, delta: dict[str, Any], reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _entries(self, tokens: Sequence[PlacedToken]) -> list[dict[str, Any]]:
        if not self.fields.logprobs:
            return []
        entries = []
        for token, _ in tokens:
            assert token.token_id is not None and token.log_probability is not None
            entry = logprob_entry(self.model, token.token_id, token.log_probability)
            best = [logprob_entry(self.model, *each) for each in token.alternatives]
            entries.append({**entry, "top_logprobs": best})
        return entries
