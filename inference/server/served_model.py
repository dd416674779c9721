"""A model as the server sees it: names, prompts as token ids, and settings of draws.

What this leaves out: HTTP (app.py).
"""

import json
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch

from inference.answering.constrained_decoding import JsonGrammars
from inference.batch_generation import RaggedKVCache, forward_tokens
from inference.engine.engine import Engine
from inference.sampling import SamplingSettings
from inference.server.api_errors import ApiError
from inference.server.api_fields import ChatMessage, SamplingFields, Tool, ToolCall
from lm_core.special_tokens import MESSAGE_START
from tokenizer_bpe.templates.added_tokens import control_tokens


class ServedModel:
    """A model under a name.

    Args:
        engine: model, tokenizer and template.
        name: what clients call it.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name
        self.config = engine.model.config
        self.tokenizer = engine.tokenizer
        self.stop_ids = frozenset(engine.stop_ids)
        self.silent_ids = frozenset(control_tokens(engine.tokenizer).values())

    @cached_property
    def grammars(self) -> JsonGrammars:
        """Constraints for JSON; reading the vocabulary takes a moment, so only when asked for."""
        return JsonGrammars(self.tokenizer, self.config.vocab_size, self.stop_ids)

    @property
    def can_chat(self) -> bool:
        """Whether the model has a format for conversations; else it only continues text."""
        return self.engine.template is not None or MESSAGE_START in self.tokenizer.special_tokens

    @cached_property
    def ids_by_bytes(self) -> dict[bytes, int]:
        """The id of each token's text. Control tokens give way to others of the same text."""
        control = sorted(self.silent_ids & self.tokenizer.vocab.keys())
        named = [*control, *(self.tokenizer.vocab.keys() - self.silent_ids)]
        return {self.tokenizer.vocab[token_id]: token_id for token_id in named}

    def prompt_ids(self, prompt: str | Sequence[int], field: str = "prompt") -> list[int]:
        """Return the ids of a text to continue; ids are checked."""
        if isinstance(prompt, str):
            return self._checked(self.engine.text_ids(prompt), field)
        self._check_known(prompt, field)
        return self._checked(list(prompt), field)

    def chat_ids(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Tool] | None = None,
        must_call: bool = False,
    ) -> list[int]:
        """Return the ids of a conversation, up to the assistant's next message.

        With `must_call`, the template need not list the tools: the grammar of the answer names
        them.
        """
        plain = [_plain_message(message, place) for place, message in enumerate(messages)]
        described = [tool.as_json() for tool in tools or []] or None
        if must_call and described and not self.engine.lists_tools(plain, described):
            described = None
        return self._checked(self.engine.chat_ids(plain, described), "messages")

    def sampling(self, fields: SamplingFields) -> SamplingSettings:
        """Return the settings of the draws that a request asks for."""
        bias = {int(token): value for token, value in fields.logit_bias.items()}
        self._check_known(bias, "logit_bias")
        return SamplingSettings(
            temperature=fields.temperature,
            top_k=fields.top_k,
            top_p=fields.top_p,
            min_p=fields.min_p,
            repetition_penalty=fields.repetition_penalty,
            presence_penalty=fields.presence_penalty,
            frequency_penalty=fields.frequency_penalty,
            logit_bias=bias,
            seed=secrets.randbits(63) if fields.seed is None else fields.seed,
        )

    @torch.no_grad()
    def embedding(self, token_ids: Sequence[int]) -> list[float]:
        """Return the mean of the last hidden states of a text, [d_model]."""
        weight = next(self.engine.model.parameters())
        cache = RaggedKVCache.for_model(self.config, 1, len(token_ids), weight.dtype, weight.device)
        positions = cache.positions([0], [len(token_ids)])
        attend = cache.attend([0], [len(token_ids)], self.config.sliding_window)
        ids = torch.tensor(list(token_ids), device=weight.device)
        hidden = forward_tokens(self.engine.model, ids, positions, attend)
        return hidden.float().mean(0).tolist()

    def token_text(self, token_id: int) -> bytes:
        """Return the bytes of a token; none if it has no text."""
        return self.tokenizer.vocab.get(token_id, b"")

    def _check_known(self, ids: Iterable[int], field: str) -> None:
        """Refuse token ids that the model does not have."""
        size = self.config.vocab_size
        wrong = next((token for token in ids if token >= size), None)
        if wrong is not None:
            message = f"{field}: the token id {wrong} is not in the vocabulary of {size}"
            raise ApiError(400, message, field)

    def _checked(self, ids: list[int], field: str) -> list[int]:
        most = self.config.context_length
        if not ids:
            raise ApiError(400, f"{field}: empty; give at least one token", field)
        if len(ids) > most:
            raise ApiError(
                400,
                f"the prompt has {len(ids)} tokens, the model's context holds {most}: shorten the "
                f"prompt by at least {len(ids) - most} tokens",
                field,
                "context_length_exceeded",
            )
        return ids


def _plain_message(message: ChatMessage, place: int) -> dict[str, Any]:
    """Return a message as chat templates read it."""
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": message.text}
    if message.content is None and not message.tool_calls:
        field = f"messages.{place}.content"
        raise ApiError(400, f"{field}: missing in a message of the role {message.role}", field)
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [_plain_call(call) for call in message.tool_calls]
    return plain


def _plain_call(call: ToolCall) -> dict[str, Any]:
    """Return a call with its arguments as an object, which templates write as JSON themselves.
    Arguments that are not an object stay text.
    """
    plain = call.model_dump()
    with suppress(ValueError, RecursionError):
        arguments = json.loads(call.function.arguments)
        if isinstance(arguments, dict):
            plain["function"]["arguments"] = arguments
    return plain
