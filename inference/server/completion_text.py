"""Answers as /v1/completions has them, streamed and whole.

What this leaves out: conversations (completion_chat.py).
"""

import secrets
from collections.abc import Sequence
from typing import Any

from inference.answering.answer_text import PlacedToken
from inference.server.answers import Piece, logprob_entry
from inference.server.api_fields import CompletionFields
from inference.server.served_model import ServedModel


class TextWriter:
    """Writes the answers of one request.

    Args:
        model: gives tokens their text.
        fields: the request.
    """

    object = chunk_object = "text_completion"

    def __init__(self, model: ServedModel, fields: CompletionFields) -> None:
        self.model, self.fields = model, fields
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self._pieces: dict[int, list[Piece]] = {}

    def begins(self, index: int) -> list[dict[str, Any]]:
        """Return what is sent before the first token of an answer."""
        return []

    def choices(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """Return what this piece adds; nothing if it shows nothing."""
        self._pieces.setdefault(index, []).append(piece)
        if not piece.text and piece.finish_reason is None:
            assert not piece.tokens, "tokens come with the text that they begin in"
            return []
        return [self._choice(index, [piece])]

    def whole(self, index: int) -> dict[str, Any]:
        """Return a complete answer, after `choices` has seen all its pieces."""
        return self._choice(index, self._pieces[index])

    def _choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        tokens = [token for piece in pieces for token in piece.tokens]
        return {
            "index": index,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": None if self.fields.logprobs is None else self._logprobs(tokens),
            "finish_reason": pieces[-1].finish_reason,
        }

    def _logprobs(self, tokens: Sequence[PlacedToken]) -> dict[str, list[Any]]:
        written: dict[str, list[Any]] = {
            "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []
        }  # fmt: skip
        for token, offset in tokens:
            assert token.token_id is not None and token.log_probability is not None
            own = self._entry(token.token_id, token.log_probability)
            best = dict(self._entry(*each) for each in token.alternatives)
            written["tokens"].append(own[0])
            written["token_logprobs"].append(own[1])
            written["top_logprobs"].append({**best, own[0]: own[1]} if best else {})
            written["text_offset"].append(offset)
        return written

    def _entry(self, token_id: int, log_probability: float) -> tuple[str, float]:
        """Return a token's name and log-probability; part of a character is named by its bytes, so
        that two of them have different names.
        """
        entry = logprob_entry(self.model, token_id, log_probability)
        written = bytes(entry["bytes"])
        if written.decode("utf-8", "ignore").encode() != written:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in written), entry["logprob"]
        return entry["token"], entry["logprob"]
