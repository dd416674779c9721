"""The tokenizer: text to ids and back, at once and as streams."""

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tokenizer_bpe.input_checks import BYTE_VALUES, check_special_tokens
from tokenizer_bpe.pretokenization import GPT2_PATTERN
from tokenizer_bpe.stream_cutting import StreamCutter, Unit, cut_units
from tokenizer_bpe.tokenizer_file import (
    merges_text,
    read_gpt2_files,
    read_tokenizer_json,
    tokenizer_json,
)
from tokenizer_bpe.word_merging import merge_ids

LARGEST_UINT16_VOCABULARY = 65_536
CACHED_WORDS = 65_536
LONGEST_CACHED_WORD = 64

Pair = tuple[bytes, bytes]


class Tokenizer:
    """Byte-level BPE with a vocabulary, merges and special tokens."""

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[Pair],
        special_tokens: Sequence[str] | None = None,
        pattern: str = GPT2_PATTERN,
    ) -> None:
        self.vocab = {int(token_id): bytes(token) for token_id, token in vocab.items()}
        self.merges = [(bytes(left), bytes(right)) for left, right in merges]
        self.pattern = pattern
        ids_by_token = _ids_by_token(self.vocab)
        self._byte_ids = _ids_of_bytes(ids_by_token)
        self._merge_table = _merge_table(self.merges, ids_by_token)
        self.special_tokens = _place_special_tokens(self.vocab, special_tokens or ())
        self.vocab_size = max(self.vocab) + 1
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_files(
        cls,
        vocab_path: Path | str,
        merges_path: Path | str,
        special_tokens: Sequence[str] | None = None,
        pattern: str = GPT2_PATTERN,
    ) -> "Tokenizer":
        """A tokenizer from GPT-2's two files."""
        files = read_gpt2_files(Path(vocab_path), Path(merges_path))
        return cls(files.vocab, files.merges, special_tokens, pattern)

    @classmethod
    def from_hugging_face(cls, path: Path | str) -> "Tokenizer":
        """A tokenizer from a `tokenizer.json`."""
        content = read_tokenizer_json(Path(path))
        return cls(content.vocab, content.merges, content.special_tokens, content.pattern)

    def save(self, path: Path | str) -> None:
        """Write a `tokenizer.json` at the path, and a `merges.txt` beside it."""
        target = Path(path)
        content = tokenizer_json(self)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.with_name("merges.txt").write_bytes(merges_text(self))

    def byte_lengths(self) -> np.ndarray:
        """int32 [vocab_size]: bytes of each token; 0 for special tokens and unused ids."""
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        special_ids = set(self.special_tokens.values())
        for token_id, token in self.vocab.items():
            if token_id not in special_ids:
                lengths[token_id] = len(token)
        return lengths

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = []
        for unit in cut_units(text, list(self.special_tokens), self.pattern):
            ids += self._unit_ids(unit)
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, in order."""
        return [self.encode(text) for text in texts]

    def encode_to_array(self, text: str) -> np.ndarray:
        """The ids of a text as an array [length], uint16 where the vocabulary allows it."""
        small = self.vocab_size <= LARGEST_UINT16_VOCABULARY
        return np.array(self.encode(text), dtype=np.uint16 if small else np.uint32)

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """The ids of all texts joined, given out as soon as they are certain."""
        cutter = StreamCutter(list(self.special_tokens), self.pattern)
        for text in texts:
            for unit in cutter.feed(text):
                yield from self._unit_ids(unit)
        for unit in cutter.finish():
            yield from self._unit_ids(unit)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self._bytes_of, ids)).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Pieces of the text of ids, each with the id that completes it."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token_id in ids:
            piece = decoder.decode(self._bytes_of(token_id))
            if piece:
                yield piece
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    def _bytes_of(self, token_id: int) -> bytes:
        """The bytes of an id; a ValueError if the vocabulary has no such id."""
        try:
            return self.vocab[token_id]
        except KeyError:
            raise ValueError(f"the id {token_id} is not in the vocabulary") from None

    def _unit_ids(self, unit: Unit) -> list[int]:
        """The ids of a word or a special token."""
        if unit.is_special:
            return [self.special_tokens[unit.text]]
        ids = self._cache.get(unit.text)
        if ids is None:
            single = [self._byte_ids[value] for value in unit.text.encode("utf-8")]
            ids = merge_ids(single, self._merge_table)
            if len(unit.text) <= LONGEST_CACHED_WORD:
                if len(self._cache) >= CACHED_WORDS:
                    self._cache.clear()
                self._cache[unit.text] = ids
        return ids


def _ids_by_token(vocab: Mapping[int, bytes]) -> dict[bytes, int]:
    """Token -> id; the smallest id where two ids have the same bytes."""
    ids: dict[bytes, int] = {}
    for token_id in sorted(vocab):
        if token_id < 0:
            raise ValueError(f"the vocabulary has a negative id, {token_id}")
        ids.setdefault(vocab[token_id], token_id)
    return ids


def _ids_of_bytes(ids_by_token: Mapping[bytes, int]) -> list[int]:
    """The ids of the 256 single bytes, all of which must be there."""
    singles = [bytes([value]) for value in range(BYTE_VALUES)]
    for single in singles:
        if single not in ids_by_token:
            raise ValueError(f"the byte 0x{single[0]:02X} has no id in the vocabulary")
    return [ids_by_token[single] for single in singles]


def _merge_table(
    merges: Sequence[Pair], ids_by_token: Mapping[bytes, int]
) -> dict[tuple[int, int], tuple[int, int]]:
    """(left id, right id) -> (rank, id of the result), for merges that can really happen."""
    known = {bytes([value]) for value in range(BYTE_VALUES)}
    table: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, (left, right) in enumerate(merges):
        for part in (left, right):
            if part not in known:
                raise ValueError(
                    f"merge {rank}, {left!r} with {right!r}: {part!r} is neither a single byte "
                    "nor the result of an earlier merge"
                )
        result = left + right
        if result not in ids_by_token:
            raise ValueError(f"merge {rank}: its result {result!r} has no id in the vocabulary")
        known.add(result)
        ids = (ids_by_token[left], ids_by_token[right])
        table.setdefault(ids, (rank, ids_by_token[result]))
    return table


def _place_special_tokens(vocab: dict[int, bytes], special_tokens: Sequence[str]) -> dict[str, int]:
    """Special token -> id; those that the vocabulary lacks are appended to it."""
    check_special_tokens(special_tokens)
    ids = {vocab[token_id]: token_id for token_id in sorted(vocab)}
    placed: dict[str, int] = {}
    for text in special_tokens:
        token = text.encode("utf-8")
        if token not in ids:
            ids[token] = max(vocab) + 1
            vocab[ids[token]] = token
        placed[text] = ids[token]
    return placed
