"""Ids are the same for any number of workers, and few batches are read ahead."""

import os
import threading
from collections.abc import Iterator

import pytest

from data_pipeline.shard_writing import encode_as_plain_text, plain_text_ids
from data_pipeline.sharding import document_encoding
from data_pipeline.sharding.document_encoding import batch_encoder, batches_of, encode_items
from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer
from tokenizer_bpe.compiled.tokenizer import Tokenizer as CompiledTokenizer
from tokenizer_bpe.tokenizer import Tokenizer

TEXTS = ["", "naïve café", "a <|endoftext|> b", *(f"document number {n}" for n in range(40))]
BYTES = {byte: bytes([byte]) for byte in range(256)}


def small_tokenizer() -> Tokenizer:
    merges = [(b"n", b"u"), (b"d", b"o"), (b"do", b"c")]
    vocab = BYTES | {256: b"<|endoftext|>", 257: b"nu", 258: b"do", 259: b"doc"}
    return Tokenizer(vocab, merges, ["<|endoftext|>"])


def ids_and_process(tokenizer: Tokenizer, text: str) -> list[int]:
    return [*encode_as_plain_text(tokenizer, text), os.getpid()]


def encoded(tokenizer, encode, num_processes, load=None, texts=TEXTS) -> list[tuple[str, list]]:
    with batch_encoder(tokenizer, encode, num_processes, load) as encode_batches:
        found = encode_items(iter(texts), str, encode_batches)
        return [(text, ids.tolist()) for text, ids in found]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_encoding, "BATCH_CHARACTERS", 50)


EXPECTED = [(text, encode_as_plain_text(small_tokenizer(), text)) for text in TEXTS]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_encode_as_the_lesson_does(small_batches, num_threads):
    compiled = CompiledTokenizer.of(small_tokenizer())
    assert compiled.encodes_in_threads
    assert encoded(compiled, plain_text_ids, num_threads) == EXPECTED
    assert plain_text_ids(compiled, TEXTS[1]).dtype == "<u2", "an array, as it will be stored"


def test_processes_load_the_tokenizer_once_and_encode_as_one_process(small_batches):
    found = encoded(small_tokenizer(), ids_and_process, 2, small_tokenizer)
    assert [(text, ids[:-1]) for text, ids in found] == EXPECTED
    workers = {ids[-1] for _, ids in found}
    assert os.getpid() not in workers and len(workers) <= 2


def test_without_a_function_that_loads_it_a_tokenizer_stays_in_this_process(small_batches):
    found = encoded(small_tokenizer(), ids_and_process, 2)
    assert {ids[-1] for _, ids in found} == {os.getpid()}


def failing() -> CharacterTokenizer:
    raise ValueError("no such tokenizer")


def test_an_error_of_a_worker_reaches_the_caller():
    with pytest.raises(ValueError, match="no such tokenizer"):
        encoded(small_tokenizer(), ids_and_process, 2, failing)


def test_batches_are_bounded_by_their_size():
    assert list(batches_of(["aa", "b", "cccc", "d"], len, 3)) == [["aa", "b"], ["cccc"], ["d"]]
    assert list(batches_of([], len, 3)) == []


class Slow:
    """A tokenizer for threads that waits until it may continue."""

    encodes_in_threads = True

    def __init__(self) -> None:
        self.go_on = threading.Event()


def wait_and_encode(tokenizer: Slow, text: str) -> list[int]:
    assert tokenizer.go_on.wait(60)
    return [len(text)]


def test_few_batches_are_read_ahead(monkeypatch):
    monkeypatch.setattr(document_encoding, "BATCH_CHARACTERS", 1)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for number in range(100):
            read = number + 1
            if read == 5:  # 2 threads with 2 batches each: the fifth waits for the first
                slow.go_on.set()
            yield "x" * (number + 1)

    slow = Slow()
    with batch_encoder(slow, wait_and_encode, 2) as encode_batches:
        found = encode_items(texts(), str, encode_batches)
        assert next(found)[1].tolist() == [1]
        assert read == 5, "the other 95 texts have not been read"
        assert [ids.tolist() for _, ids in found] == [[n] for n in range(2, 101)]
