"""A tokenizer with one token for each character of a text: no training, no merges.

The vocabulary of tinyshakespeare is 65 characters. A model of characters has a small embedding, so
a small model learns fast from a small text, but it needs several times as many tokens as BPE for
the same text.

A character without a token is an error that names it: there is no token for unknown characters,
because text with such tokens could not be decoded to itself.

What this leaves out: learning the vocabulary from a part of the text only.

Source: Karpathy, char-rnn (2015) and nanoGPT's data/shakespeare_char.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError
from tokenizer_bpe.characters.character_file import ONE_CHARACTER, character_json
from tokenizer_bpe.inputs.input_checks import check_special_tokens, utf8_bytes
from tokenizer_bpe.templates.added_tokens import control_tokens
from tokenizer_bpe.tokenizer_file import merges_text


def characters_of(texts: Iterable[str]) -> list[str]:
    """Return the distinct characters of the texts, in the order of their code points."""
    found: set[str] = set()
    for text in texts:
        found.update(text)
    return sorted(found)


class CharacterTokenizer:
    """A vocabulary of single characters, with the interface of `tokenizer_protocol.AnyTokenizer`.

    Attributes:
        vocab: id -> UTF-8 bytes of the character, or of a special token.
        merges: none.
        special_tokens: text -> id.
        vocab_size: the largest id, plus one.
        pattern: cuts a text into its characters.
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]] = (),
        special_tokens: Sequence[str] | None = None,
        pattern: str = ONE_CHARACTER,
    ) -> None:
        """Make a tokenizer from a vocabulary.

        Args:
            vocab: id -> UTF-8 bytes; every entry is one character or one of the special tokens.
            merges: must be empty.
            special_tokens: found in a text before anything else, the longest first. One that the
                vocabulary lacks gets the next free id.
            pattern: must be ONE_CHARACTER.

        Raises:
            ValueError: an entry has more than one character, or a special token is empty or
                repeated.
        """
        assert not merges and pattern == ONE_CHARACTER, "a tokenizer of characters merges nothing"
        special_tokens = list(special_tokens or [])
        check_special_tokens(special_tokens)
        self.vocab = dict(vocab)
        self.merges: list[tuple[bytes, bytes]] = []
        self.pattern = pattern
        self.special_tokens = self._with_ids(special_tokens)
        special_ids = set(self.special_tokens.values())
        texts = {i: token.decode("utf-8") for i, token in self.vocab.items()}
        id_of = {text: i for i, text in texts.items() if i not in special_ids}
        for text, token_id in id_of.items():
            if len(text) != 1:
                raise UserError(f"token {token_id} is {text!r}, expected one character")
        self.vocab_size = max(self.vocab, default=-1) + 1
        self.characters = sorted(id_of)
        self._code_points = np.array([ord(text) for text in self.characters], dtype=np.uint32)
        self._ids = np.array([id_of[text] for text in self.characters], dtype=np.uint32)
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._special = (
            re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        )

    def _with_ids(self, special_tokens: Sequence[str]) -> dict[str, int]:
        """Return text -> id; a new token gets the next free id, also in the vocabulary."""
        known = {token: token_id for token_id, token in self.vocab.items()}
        ids = {}
        for text in special_tokens:
            if text.encode() not in known:
                self.vocab[max(self.vocab, default=-1) + 1] = text.encode()
                known[text.encode()] = max(self.vocab)
            ids[text] = known[text.encode()]
        return ids

    @classmethod
    def of(
        cls, characters: Sequence[str], special_tokens: Sequence[str] = ()
    ) -> "CharacterTokenizer":
        """Return the tokenizer that gives the ids 0, 1, ... to the characters, in their order."""
        vocab = {token_id: utf8_bytes(text) for token_id, text in enumerate(characters)}
        return cls(vocab, special_tokens=special_tokens)

    def save(self, path: Path | str) -> None:
        """Write tokenizer.json at `path`, and a merges.txt without merges next to it."""
        path = Path(path)
        for target, content in (
            (path, character_json(self.vocab, self.special_tokens)),
            (path.with_name("merges.txt"), merges_text(self)),
        ):
            with atomic_file(target, "wb") as file:
                file.write(content)

    def byte_lengths(self) -> np.ndarray:
        """Return bytes of text per token, int32 [vocab_size]; 0 for special tokens and unused
        ids.
        """
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        for token_id, token in self.vocab.items():
            lengths[token_id] = len(token)
        lengths[list(control_tokens(self).values())] = 0
        return lengths

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, special tokens included.

        Raises ValueError for a character that has no token, with its position.
        """
        return self.encode_to_array(text).tolist()

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text, in order."""
        return [self.encode(text) for text in texts]

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """Yield the ids of the joined texts; the texts are joined first."""
        yield from self.encode("".join(texts))

    def encode_to_array(self, text: str) -> np.ndarray:
        """Return the ids as an array: uint16 if every id of the vocabulary fits, else uint32."""
        dtype = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        pieces = []
        start = 0
        for match in self._special.finditer(text) if self._special else ():
            pieces.append(self._ids_of(text, start, match.start()))
            pieces.append(np.array([self.special_tokens[match.group()]], dtype=np.uint32))
            start = match.end()
        pieces.append(self._ids_of(text, start, len(text)))
        return np.concatenate(pieces).astype(dtype)

    def _ids_of(self, text: str, start: int, end: int) -> np.ndarray:
        """Return the ids of text[start:end], which has no special token."""
        content = text[start:end].encode("utf-32-le", "surrogatepass")
        wanted = np.frombuffer(content, dtype="<u4")
        places = np.searchsorted(self._code_points, wanted)
        known = places < len(self._code_points)
        known[known] = self._code_points[places[known]] == wanted[known]
        if not known.all():
            place = start + int(np.argmin(known))
            raise UserError(
                f"the text holds {text[place]!r} (U+{ord(text[place]):04X}) at position {place}, "
                f"which is not one of the tokenizer's {len(self.characters):,} characters; replace "
                "it, or train on a text that holds it"
            )
        return self._ids[places]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; ValueError for an id that the vocabulary lacks."""
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of each id."""
        for token_id in ids:
            token = self.vocab.get(token_id)
            if token is None:
                largest = self.vocab_size - 1
                raise UserError(f"token id {token_id} is not in the vocabulary (0 to {largest})")
            yield token.decode("utf-8")
