"""The engine: from a checkpoint folder or a GGUF file to text, returned whole or as a stream.

It connects the three parts that a prompt passes through: the folder's own tokenizer, the model with
a key-value cache, and the stream that decodes ids into whole characters.

What this leaves out: more than one request at a time (batch_engine.py), and keeping the cache from
one text to the next (chat_engine.py).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from inference.engine.text_side import (
    TOKENIZER_FILE,
    TextSide,
    text_side_of_folder,
    text_side_of_gguf,
)
from inference.generation import check_max_new_tokens, check_prompt_fits, generate_steps
from inference.sampling import SamplingSettings
from lm_core.device import pick_device
from lm_core.formats.gguf_container import read_gguf
from lm_core.special_tokens import END_OF_TEXT, MESSAGE_START, SPECIAL_TOKENS
from lm_core.user_error import UserError
from tokenizer_bpe.characters.either_kind import EitherKind
from tokenizer_bpe.chat_template import encode_chat
from tokenizer_bpe.formats.missing_bytes import RARE_BYTES
from tokenizer_bpe.templates.added_tokens import control_tokens
from tokenizer_bpe.templates.jinja_template import encode_with_template
from transformer_lm.language_model import TransformerLM
from transformer_lm.weights.gguf_file import load_gguf
from transformer_lm.weights.pretrained import load_model

Message = dict[str, str]  # {"role": "user" or "assistant", "content": ...}


class Engine:
    """A model with its tokenizer. It is not thread-safe.

    In our own models, every special token ends a text, because another document or message would
    follow. A foreign model has its own stop ids and its own chat template; see `text_side`. Raises
    ValueError if one of our tokenizers lacks a special token, or if a tokenizer has ids for which
    the model has no row. Rows without a token are never sampled.
    """

    def __init__(
        self, model: TransformerLM, tokenizer: EitherKind, text_side: TextSide | None = None
    ) -> None:
        side = TextSide(tokenizer) if text_side is None else text_side
        missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.special_tokens]
        if missing and side.stop_ids is None:
            raise UserError(
                f"the tokenizer lacks the special tokens {', '.join(missing)}; the engine needs "
                f"{', '.join(SPECIAL_TOKENS)} to know where a text ends"
            )
        check_rows(model, tokenizer, "the tokenizer")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.template = side.template
        self.first_id = side.first_id
        ours = frozenset(tokenizer.special_tokens.get(token, -1) for token in SPECIAL_TOKENS)
        self.stop_ids = ours if side.stop_ids is None else side.stop_ids
        self.drawable = _rows_with_a_token(model, tokenizer, self.stop_ids)

    @classmethod
    def from_checkpoint(cls, folder: Path, device: str = "cpu") -> "Engine":
        """Load config.json, model.safetensors and tokenizer.json from one folder.

        `device` is "cpu", "cuda" or "auto". Raises ValueError if the folder is not a checkpoint, or
        if its tokenizer has ids for which the model has no row.
        """
        folder = Path(folder)
        model = load_model(folder, pick_device(device))
        side = text_side_of_folder(folder)
        check_rows(model, side.tokenizer, f"{folder / TOKENIZER_FILE}")
        return cls(model, side.tokenizer, side)

    @classmethod
    def from_gguf(cls, path: Path, device: str = "cpu") -> "Engine":
        """Load model, tokenizer and template from a GGUF file; raise ValueError if it is not
        one.
        """
        path = Path(path)
        file = read_gguf(path)
        try:
            side = text_side_of_gguf(file)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        model = load_gguf(path, pick_device(device), file=file)
        check_rows(model, side.tokenizer, f"the vocabulary of {path}")
        return cls(model, side.tokenizer, side)

    @property
    def context_length(self) -> int:
        """The largest number of tokens in prompt and answer together."""
        return self.model.config.context_length

    def stream(self, text: str, sampling: SamplingSettings, max_new_tokens: int) -> Iterator[str]:
        """Continue `text`, piece by piece; the pieces are whole characters, without the prompt.

        An empty text is continued from the start of a document. Raises ValueError, before any
        computation, if the text has more tokens than the context length.
        """
        return self._stream_ids(self.text_ids(text), sampling, max_new_tokens)

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of a text that is to be continued; never none."""
        ids = self.tokenizer.encode(text)
        if self.first_id is not None:
            ids = [self.first_id, *ids]
        if ids:
            return ids
        first = self.tokenizer.special_tokens.get(END_OF_TEXT, min(self.stop_ids, default=None))
        if first is None:
            raise UserError("the prompt is empty, and the model names no token to start from")
        return [first]

    def complete(self, text: str, sampling: SamplingSettings, max_new_tokens: int) -> str:
        """Return the text of `stream` as one string."""
        return "".join(self.stream(text, sampling, max_new_tokens))

    def stream_chat(
        self, messages: Sequence[Message], sampling: SamplingSettings, max_new_tokens: int
    ) -> Iterator[str]:
        """Yield the assistant's next message, piece by piece. Raises ValueError as `stream`
        does.
        """
        return self._stream_ids(self.chat_ids(messages), sampling, max_new_tokens)

    def chat(
        self, messages: Sequence[Message], sampling: SamplingSettings, max_new_tokens: int
    ) -> str:
        """Return the text of `stream_chat` as one string, without surrounding whitespace."""
        return "".join(self.stream_chat(messages, sampling, max_new_tokens)).strip()

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Return the conversation as token ids, up to the start of the assistant's next message.

        `tools` describes functions that the model may call. Raises ValueError if the template does
        not list them.
        """
        if tools and not self.lists_tools(messages, tools):
            raise UserError("the model's chat template has no place for tools; leave them out")
        if self.template is not None:
            return encode_with_template(self.tokenizer, self.template, messages, tools)
        if MESSAGE_START not in self.tokenizer.special_tokens:
            raise UserError(
                "the model has no chat template: it was trained to continue text, not to answer; "
                "use `lm generate`"
            )
        ids, _ = encode_chat(self.tokenizer, list(messages), add_generation_prompt=True)
        return ids

    def lists_tools(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Return whether the chat template shows the model these functions in this conversation.

        Raises ValueError if it cannot show the conversation itself.
        """
        if self.template is None:
            return False
        without = encode_with_template(self.tokenizer, self.template, messages)
        try:
            shown = encode_with_template(self.tokenizer, self.template, messages, tools)
        except UserError:
            return False
        return shown != without

    def _stream_ids(
        self, prompt_ids: list[int], sampling: SamplingSettings, max_new_tokens: int
    ) -> Iterator[str]:
        # Checked here as well as in generate_steps, because a generator raises only at its first
        # piece.
        check_max_new_tokens(max_new_tokens)
        check_prompt_fits(len(prompt_ids), self.context_length)
        lacking = next((i for i in prompt_ids if i >= self.model.config.vocab_size), None)
        if lacking is not None:
            byte = self.tokenizer.vocab[lacking][0]
            raise UserError(f"the text holds byte 0x{byte:02x}, for which the model has no token")
        # Control tokens are not text; neither is an id that the tokenizer lacks.
        silent = set(control_tokens(self.tokenizer).values())
        return self.tokenizer.decode_stream(
            token
            for token in self.new_ids(prompt_ids, sampling, max_new_tokens)
            if token in self.tokenizer.vocab and token not in silent
        )

    def new_ids(
        self, prompt_ids: Sequence[int], sampling: SamplingSettings, max_new_tokens: int
    ) -> Iterator[int]:
        """Yield the ids that continue a prompt, without the one that ends the text."""
        device = next(self.model.parameters()).device
        prompt = torch.tensor([list(prompt_ids)], device=device)
        drawable = None if self.drawable is None else self.drawable.to(device)
        steps = generate_steps(
            self.model, prompt, sampling, max_new_tokens, self.stop_ids, drawable=drawable
        )
        return (ids[0] for ids in steps)


def _rows_with_a_token(
    model: TransformerLM, tokenizer: EitherKind, stop_ids: Collection[int]
) -> Bool[Tensor, " vocab"] | None:
    """Return the rows of the model that may be sampled: those with a token, and those that end a
    text.

    None stands for all rows. Qwen3 has 151,936 rows, a conveniently divisible number, for 151,669
    tokens.
    """
    rows = model.config.vocab_size
    known = [token_id for token_id in {*tokenizer.vocab, *stop_ids} if 0 <= token_id < rows]
    if len(known) == rows:
        return None
    drawable = torch.zeros(rows, dtype=torch.bool)
    drawable[known] = True
    return drawable


def check_rows(model: TransformerLM, tokenizer: EitherKind, where: str) -> None:
    """Raise ValueError if the tokenizer has ids for which the model has no row.

    The ids of missing bytes are exempt (see tokenizer_bpe/formats/missing_bytes.py).
    """
    rows = model.config.vocab_size
    lacking = [
        token
        for token_id, token in tokenizer.vocab.items()
        if token_id >= rows and not (len(token) == 1 and token[0] in RARE_BYTES)
    ]
    if lacking:
        raise UserError(
            f"{where} has {tokenizer.vocab_size} entries, the model {rows} rows: none for "
            f"{lacking[0]!r}; use the tokenizer that the model was trained with"
        )
