"""Answers that follow a JSON schema: after every token, which tokens may come next.

The grammar, and its automaton over tokens, is the library llguidance's. What this leaves out:
schemas beyond JSON, such as regular expressions.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any

import llguidance
import llguidance.numpy  # llguidance.torch would load torch's compiler
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from lm_core.user_error import UserError
from tokenizer_bpe.characters.either_kind import EitherKind
from tokenizer_bpe.templates.added_tokens import control_tokens

# Without a limit, a weak model writes spaces until its answer is cut.
FORM = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n\r\t]{0,40}"}


class _Vocabulary:
    """A tokenizer in the form that llguidance reads."""

    def __init__(self, tokenizer: EitherKind, num_rows: int, stop_id: int) -> None:
        self.tokens = [tokenizer.vocab.get(token_id, b"") for token_id in range(num_rows)]
        self.special_token_ids = list(control_tokens(tokenizer).values())
        self.eos_token_id = stop_id
        self.bos_token_id = None
        self._encode = tokenizer.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.decode() if isinstance(text, bytes) else text)


class JsonConstraint:
    """Says which tokens may come next in one answer."""

    def __init__(self, matcher: llguidance.LLMatcher, ends: Bool[Tensor, " vocab"]) -> None:
        self._matcher = matcher
        self._ends = ends
        self._num_rows = num_rows = len(ends)
        self._bits = llguidance.numpy.allocate_token_bitmask(1, num_rows)

    def allowed(self) -> Bool[Tensor, " vocab"]:
        """Return which tokens may come next; a stop id where the answer may end. If nothing may,
        because the library gave up, the answer ends.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits)
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: self._num_rows].astype(bool))
        return allowed if allowed.any() else self._ends

    def accept(self, token_id: int) -> None:
        """Take this token as the next one."""
        self._matcher.consume_token(token_id)


class JsonGrammars:
    """Makes constraints for the tokenizer of one model.

    Args:
        tokenizer: of the model.
        num_rows: rows of the model.
        stop_ids: ids that end an answer.
    """

    def __init__(self, tokenizer: EitherKind, num_rows: int, stop_ids: Collection[int]) -> None:
        if not stop_ids:
            raise UserError("the model has no token that ends an answer, so no JSON can end")
        vocabulary = _Vocabulary(tokenizer, num_rows, min(stop_ids))
        wrapped = llguidance.TokenizerWrapper(vocabulary)
        self._tokenizer = llguidance.LLTokenizer(
            wrapped, n_vocab=num_rows, eos_token=sorted(stop_ids)
        )
        self._ends = torch.zeros(num_rows, dtype=torch.bool)
        self._ends[sorted(stop_ids)] = True

    def constraint(self, schema: dict[str, Any]) -> JsonConstraint:
        """Return a constraint at the start of an answer; raise ValueError for an invalid schema."""
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(schema, allow_nan=False), defaults=FORM
            )
        except (ValueError, RecursionError) as error:
            raise UserError(f"the JSON schema is not supported: {_one_line(error)}") from None
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise UserError(f"the JSON schema is not supported: {_one_line(matcher.get_error())}")
        return JsonConstraint(matcher, self._ends)


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())[:300]


def schema_of_calls(tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of a call of one of these functions: its name and its arguments."""
    schemas = [tool["function"].get("parameters") or {"type": "object"} for tool in tools]
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": {"$ref": f"#/$defs/{number}"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for number, tool in enumerate(tools)
    ]
    definitions = {str(n): _moved(schema, f"#/$defs/{n}") for n, schema in enumerate(schemas)}
    return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), "$defs": definitions}


def _moved(schema: Any, place: str) -> Any:
    """Return a schema whose references to its own parts hold after it has moved."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(part, place) for key, part in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved
