"""A tokenizer with slots and without a cache; words merged by rank, round by round; streams cut
by their last words; UTF-8 decoded by what Python says about its errors.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path

import numpy as np

from tokenizer_bpe import tokenizer_file
from tokenizer_bpe.inputs.input_checks import check_merges, check_special_tokens, utf8_bytes
from tokenizer_bpe.pretokenization import GPT2_PATTERN, pretokenize, split_special_tokens


class Tokenizer:
    __slots__ = ("_id_of", "_ranks", "merges", "pattern", "special_tokens", "vocab", "vocab_size")

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        pattern: str = GPT2_PATTERN,
    ) -> None:
        names = list(special_tokens or ())
        check_special_tokens(names)
        self.vocab, self.merges, self.pattern = {**vocab}, [*merges], pattern
        self._id_of = {**check_merges(self.vocab, self.merges)}
        for name in names:
            if self._id_of.setdefault(name.encode(), max(self.vocab) + 1) not in self.vocab:
                self.vocab[max(self.vocab) + 1] = name.encode()
        self.special_tokens = {name: self._id_of[name.encode()] for name in names}
        self.vocab_size = max(self.vocab) + 1
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}

    @classmethod
    def from_files(
        cls,
        vocab_path: Path | str,
        merges_path: Path | str,
        special_tokens: Sequence[str] | None = None,
        pattern: str = GPT2_PATTERN,
    ) -> "Tokenizer":
        found = tokenizer_file.read_gpt2_files(Path(vocab_path), Path(merges_path))
        return cls(found.vocab, found.merges, special_tokens, pattern)

    @classmethod
    def from_hugging_face(cls, path: Path | str) -> "Tokenizer":
        return cls(*tokenizer_file.read_tokenizer_json(Path(path)))

    def save(self, path: Path | str) -> None:
        tokenizer_file.write_tokenizer_json(self, Path(path))

    def byte_lengths(self) -> np.ndarray:
        special = set(self.special_tokens.values())
        lengths = (
            0 if number in special else len(self.vocab.get(number, b""))
            for number in range(self.vocab_size)
        )
        return np.fromiter(lengths, dtype=np.int32, count=self.vocab_size)

    def encode(self, text: str) -> list[int]:
        return [number for piece in self._pieces(text) for number in self._ids(piece)]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return list(map(self.encode, texts))

    def encode_to_array(self, text: str) -> np.ndarray:
        return np.array(self.encode(text), np.uint16 if self.vocab_size <= 65_536 else np.uint32)

    def _pieces(self, text: str) -> Iterator[str]:
        """Yield words and special tokens."""
        for piece in split_special_tokens(text, list(self.special_tokens)):
            if piece in self.special_tokens:
                yield piece
            else:
                yield from pretokenize(piece, self.pattern)

    def _ids(self, piece: str) -> list[int]:
        if piece in self.special_tokens:
            return [self.special_tokens[piece]]
        return self._ids_of_word(piece)

    def _ids_of_word(self, word: str) -> list[int]:
        parts: list[bytes | None] = [byte.to_bytes() for byte in utf8_bytes(word)]
        size = len(parts)
        after = [*range(1, size + 1)]
        before = [*range(-1, size - 1)]

        def rank_at(place: int) -> int | None:
            if place < 0 or after[place] >= size:
                return None
            return self._ranks.get((parts[place], parts[after[place]]))

        heap = [(rank, place) for place in range(size) if (rank := rank_at(place)) is not None]
        heapify(heap)
        while heap:
            current, touched = heap[0][0], []
            while heap and heap[0][0] == current:
                place = heappop(heap)[1]
                if parts[place] is None or rank_at(place) != current:
                    continue
                right = after[place]
                parts[place], parts[right] = parts[place] + parts[right], None
                after[place] = after[right]
                if after[place] < size:
                    before[after[place]] = place
                touched += [before[place], place]
            for place in touched:
                if place >= 0 and parts[place] is not None:
                    rank = rank_at(place)
                    if rank is not None:
                        heappush(heap, (rank, place))
        return [self._id_of[part] for part in parts if part is not None]

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        held = ""
        for text in texts:
            held += text
            settled, held = self._settled(held)
            for piece in settled:
                yield from self._ids(piece)
        yield from self.encode(held)

    def _settled(self, text: str) -> tuple[list[str], str]:
        """Return the pieces that later text cannot change, and the rest."""
        done: list[str] = []
        start = 0
        for piece in split_special_tokens(text, list(self.special_tokens)):
            end = start + len(piece)
            if piece in self.special_tokens:
                if self._may_become_special(text[start:]):
                    break
                done.append(piece)
                start = end
                continue
            nearest = max(start, len(text) - max(map(len, self.special_tokens), default=0))
            opens = (at for at in range(nearest, end) if self._may_become_special(text[at:]))
            certain = next(opens, end)
            words = pretokenize(text[start:certain], self.pattern)
            if certain == end < len(text):  # a special token ends the last word
                done += words
                start = end
                continue
            done += words[:-2]
            start += sum(map(len, words[:-2]))
            break
        return done, text[start:]

    def _may_become_special(self, ending: str) -> bool:
        """Return whether more text could make a special token of the end of the text."""
        return any(
            name.startswith(ending) and len(name) > len(ending) for name in self.special_tokens
        )

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.decode_stream(ids))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        held = b""
        for number in ids:
            if number not in self.vocab:
                raise ValueError(f"no token has the id {number}")
            held += self.vocab[number]
            whole = len(held) - self._unfinished(held)
            if whole:
                yield held[:whole].decode("utf-8", "replace")
            held = held[whole:]
        if held:
            yield held.decode("utf-8", "replace")

    @staticmethod
    def _unfinished(text: bytes) -> int:
        """Return how many bytes at the end begin a character that is not complete."""
        for size in range(1, min(3, len(text)) + 1):
            try:
                text[-size:].decode("utf-8")
            except UnicodeDecodeError as error:
                if error.start == 0 and error.reason == "unexpected end of data":
                    return size
        return 0
