"""Text -> token ids and back, with a trained vocabulary.

Encoding processes the words of a text one by one and applies the merges to each, the earliest merge
first. Most words of a text have been seen before, so a cache of words does most of the work.

As in `merge_training`, a word is a string whose characters are tokens: `chr(id)`. A merge is then
`str.replace`. The cache stores that string as UTF-16 or UTF-32, with two or four bytes per token,
so the words of a text, joined, *are* the array of ids.

A merge is made in all its places before anything else, as in GPT-2's own code. `tokenizers` and
tiktoken merge one place at a time. That gives other ids only for merges that no trainer makes, and
such files are rejected (`input_checks.check_order_of_merges`).

What this leaves out: threads and compiled code, padding and truncation (which concern batches), and
normalization.

Source: Sennrich et al. 2016, section 3.2; Radford et al. 2019, section 2.2.
"""

import codecs
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import add
from pathlib import Path

import numpy as np

from lm_core.user_error import UserError
from tokenizer_bpe import tokenizer_file
from tokenizer_bpe.inputs.input_checks import check_merges, utf8_bytes
from tokenizer_bpe.pretokenization import (
    GPT2_PATTERN,
    SPACE_RUNS,
    open_special_token,
    pretokenize,
    special_token_pattern,
    text_blocks,
)
from tokenizer_bpe.templates.added_tokens import control_tokens

LONG_WORD = 400  # tokens; from this length, the heap is faster
BLOCK_CHARACTERS = 1 << 12  # 2.2 s for 60 MB of novels; 2.4 with 1 << 14, 2.9 with 1 << 18
CACHED_WORDS = 1 << 19  # about 60 MB; a full cache is emptied
NO_MERGE = 1 << 62


class Tokenizer:
    """A byte-level BPE vocabulary that encodes and decodes.

    Attributes:
        vocab: id -> bytes, special tokens included.
        merges: pairs of byte strings, in order of priority.
        special_tokens: text -> id.
        vocab_size: the largest id, plus one.
        pattern: the pattern that cuts text into words.
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        pattern: str = GPT2_PATTERN,
    ) -> None:
        """Make a tokenizer from the results of a trainer.

        Args:
            vocab: id -> bytes; every single byte must have an id.
            merges: each merges two tokens that are single bytes or results of earlier merges.
            special_tokens: found in text before anything else, the longest first. One that the
                vocabulary lacks gets the next free id.
            pattern: see `pretokenization.pretokenize`. For `encode_iterable`, the end of a word may
                depend on at most the two words after it, as in GPT-2's and GPT-4's patterns.

        Raises:
            ValueError: the merges do not match the vocabulary (the message names the merge), a byte
                has no id, or a special token is empty or repeated.
        """
        self.vocab = dict(vocab)
        self.merges = list(merges)
        self.pattern = pattern
        special_tokens = list(special_tokens or [])
        self._special = special_token_pattern(special_tokens)
        id_of = check_merges(self.vocab, self.merges)
        for token in special_tokens:
            if token.encode() not in id_of:
                id_of[token.encode()] = new_id = max(self.vocab) + 1
                self.vocab[new_id] = token.encode()
        self.special_tokens = {token: id_of[token.encode()] for token in special_tokens}
        self.vocab_size = max(self.vocab) + 1
        # A byte as a Latin-1 character -> its token; the pair of a merge -> its rank and result.
        self._token_of_byte = {byte: chr(id_of[bytes([byte])]) for byte in range(256)}
        self._pairs = [chr(id_of[left]) + chr(id_of[right]) for left, right in self.merges]
        self._results = [chr(id_of[left + right]) for left, right in self.merges]
        narrow = self.vocab_size <= 1 << 16
        self._codec, self._dtype = ("utf-16-le", "<u2") if narrow else ("utf-32-le", "<u4")
        self._ranks = {pair: rank for rank, pair in enumerate(self._pairs)}
        self._cache = _WordCache(self)
        self._spaced_cache = _SpacedCache(self._cache)

    @classmethod
    def from_files(
        cls,
        vocab_path: Path | str,
        merges_path: Path | str,
        special_tokens: Sequence[str] | None = None,
        pattern: str = GPT2_PATTERN,
    ) -> "Tokenizer":
        """Read a vocab.json and a merges.txt in GPT-2's format.

        Raises ValueError if they do not match; the message names the line.
        """
        found = tokenizer_file.read_gpt2_files(Path(vocab_path), Path(merges_path))
        return cls(found.vocab, found.merges, special_tokens, pattern)

    @classmethod
    def from_hugging_face(cls, path: Path | str) -> "Tokenizer":
        """Read a tokenizer.json of the Hugging Face `tokenizers` library: byte-level BPE only."""
        return cls(*tokenizer_file.read_tokenizer_json(Path(path)))

    @classmethod
    def from_tiktoken_ranks(
        cls,
        path: Path | str,
        special_tokens: Mapping[str, int] | None = None,
        pattern: str = GPT2_PATTERN,
    ) -> "Tokenizer":
        """Read a `.tiktoken` file: a token in base64 and its rank on each line.

        Args:
            path: the file.
            special_tokens: text -> id; they are not part of the file.
            pattern: not part of the file either.
        """
        return cls(*tokenizer_file.read_tiktoken_ranks(Path(path), special_tokens or {}, pattern))

    def save(self, path: Path | str) -> None:
        """Write tokenizer.json at `path`, and a readable merges.txt next to it."""
        tokenizer_file.write_tokenizer_json(self, Path(path))

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
        """Return the ids of `text`, special tokens included; ValueError for half of a surrogate
        pair.
        """
        return self.encode_to_array(text).tolist()

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text, in order."""
        return [self.encode(text) for text in texts]

    def encode_to_array(self, text: str) -> np.ndarray:
        """Return the ids as an array: uint16 if every id of the vocabulary fits, else uint32."""
        return np.frombuffer(b"".join(self._encode_pieces(text)), dtype=self._dtype).copy()

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """Yield the ids of the joined texts without joining them, for a file or a stream.

        The next text is read only after all settled ids have been yielded. The part that a later
        text may change is held back: the last two words, and the beginning of a special token. They
        bound the memory.
        """
        held = ""
        wait_for = 0
        for text in texts:
            held += text
            # Retrying only after the text has doubled keeps the total time linear in its length.
            if len(held) >= wait_for:
                tokens, held = self._encode_settled(held)
                wait_for = 2 * len(held)
                yield from np.frombuffer(tokens, dtype=self._dtype).tolist()
        yield from self.encode(held)

    def _encode_settled(self, text: str) -> tuple[bytes, str]:
        """Return the tokens that no further text can change, and the remaining text."""
        tokens: list[bytes] = []
        start = 0
        while True:
            match = self._special.search(text, start) if self._special else None
            # From here, the text may contain the beginning of a special token.
            open_from = open_special_token(text, start, self.special_tokens)
            if match is None or match.start() >= open_from:
                break
            tokens += self._encode_words(text[start : match.start()])
            tokens.append(self._packed(chr(self.special_tokens[match.group()])))
            start = match.end()
        blocks = list(text_blocks(text[start:open_from], self.pattern, BLOCK_CHARACTERS)) or [""]
        for block in blocks[:-1]:
            tokens += self._encode_words(block)
        # Word by word, because without the text after them, the words could be cut differently.
        words = pretokenize(blocks[-1], self.pattern)[:-2]
        tokens += map(self._cache.__getitem__, words)
        settled = start + sum(map(len, blocks[:-1])) + sum(map(len, words))
        return b"".join(tokens), text[settled:]

    def _packed(self, tokens: str) -> bytes:
        """Return token characters as the bytes of an array of ids."""
        return tokens.encode(self._codec, "surrogatepass")

    def _encode_pieces(self, text: str) -> Iterator[bytes]:
        """Yield packed tokens of a text that may contain special tokens."""
        start = 0
        for match in self._special.finditer(text) if self._special else ():
            yield from self._encode_words(text[start : match.start()])
            yield self._packed(chr(self.special_tokens[match.group()]))
            start = match.end()
        yield from self._encode_words(text[start:] if start else text)

    def _encode_words(self, text: str) -> Iterator[bytes]:
        """Yield packed tokens of a text without special tokens."""
        runs = SPACE_RUNS.get(self.pattern)
        for block in text_blocks(text, self.pattern, BLOCK_CHARACTERS):
            if runs is None:
                words = pretokenize(block, self.pattern)
                yield b"".join(map(self._cache.__getitem__, words))
                continue
            between = True
            for piece in runs.split(block):  # text between runs, a run, and so on
                if between:
                    first, *chunks = piece.replace("\n", " \n").split(" ")
                    yield self._cache[first]
                    yield b"".join(map(self._spaced_cache.__getitem__, chunks))
                else:
                    yield self._cache[piece]
                between = not between

    def _encode_word(self, word: str) -> str:
        """Return the token characters of one word."""
        tokens = utf8_bytes(word).decode("latin-1").translate(self._token_of_byte)
        return self._merge(tokens) if len(tokens) <= LONG_WORD else self._merge_long(tokens)

    def _merge(self, tokens: str) -> str:
        """Apply the earliest merge that fits, everywhere, until none does: n steps per merge."""
        while len(tokens) > 1:
            rank = min(map(self._ranks.get, map(add, tokens, tokens[1:]), repeat(NO_MERGE)))
            if rank == NO_MERGE:
                break
            tokens = tokens.replace(self._pairs[rank], self._results[rank])
        return tokens

    def _merge_long(self, tokens: str) -> str:
        """Make the same merges with a heap over a linked list: n log n for a word of n tokens.

        It works in rounds, because a merge is made in all its places before any pair that it
        creates.
        """
        token_at = list(tokens)
        end = len(tokens)
        following, before = list(range(1, end + 1)), list(range(-1, end - 1))
        pairs = enumerate(map(add, tokens, tokens[1:]))
        heap = [(self._ranks[pair], place) for place, pair in pairs if pair in self._ranks]
        heapq.heapify(heap)
        while heap:
            rank, made = heap[0][0], []
            while heap and heap[0][0] == rank:
                _, place = heapq.heappop(heap)
                second = following[place]
                if second == end or token_at[place] + token_at[second] != self._pairs[rank]:
                    continue  # a merge on either side has removed this pair
                token_at[place], token_at[second] = self._results[rank], ""
                following[place] = third = following[second]
                if third < end:
                    before[third] = place
                made += [(before[place], place), (place, third)]
            for left, right in made:
                if left >= 0 and right < end and following[left] == right:
                    new_rank = self._ranks.get(token_at[left] + token_at[right])
                    if new_rank is not None:
                        heapq.heappush(heap, (new_rank, left))
        return "".join(token_at)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD.

        Raises ValueError for an id that the vocabulary lacks.
        """
        return b"".join(self._bytes_of(ids)).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of `ids` as soon as it is certain, never a part of a character.

        The pieces, joined, are `decode(ids)`; an id that completes no character yields nothing.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in self._bytes_of(ids):
            if text := decoder.decode(token):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def _bytes_of(self, ids: Iterable[int]) -> Iterator[bytes]:
        for token_id in ids:
            token = self.vocab.get(token_id)
            if token is None:
                largest = self.vocab_size - 1
                raise UserError(f"token id {token_id} is not in the vocabulary (0 to {largest})")
            yield token


class _WordCache(dict[str, bytes]):
    """A cache from a word, or a chunk of a few whole words, to packed tokens; it encodes missing
    ones.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, text: str) -> bytes:
        if len(self) >= CACHED_WORDS:
            self.clear()
        # Only chunks between spaces have several words; any other is one word, even if it would be
        # cut differently without the text after it.
        pattern = self._tokenizer.pattern
        words = pretokenize(text, pattern) if pattern in SPACE_RUNS else [text]
        if len(words) == 1:
            tokens = self._tokenizer._packed(self._tokenizer._encode_word(text))
        else:
            tokens = b"".join(map(self.__getitem__, words))
        if len(text) <= LONG_WORD:  # longer ones are rarely seen twice
            self[text] = tokens
        return tokens


class _SpacedCache(dict[str, bytes]):
    """A cache from the remains of a chunk after `split` to the packed tokens of the whole chunk.

    The remains lack the space in front, or contain a newline.
    """

    def __init__(self, cache: _WordCache) -> None:
        super().__init__()
        self._cache = cache

    def __missing__(self, piece: str) -> bytes:
        if len(self) >= CACHED_WORDS:
            self.clear()
        tokens = self._cache[piece if piece.startswith("\n") else " " + piece]
        if len(piece) < LONG_WORD:
            self[piece] = tokens
        return tokens
