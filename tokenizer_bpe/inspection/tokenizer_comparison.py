"""A comparison of tokenizers: bytes per token, tokens per word by language, and the speed of the
lesson, our compiled code, tiktoken and `tokenizers` with the same vocabulary.

What this leaves out: threads and batches (one text, one thread, as a list of ids), speed with
cached words, and the quality of a model trained on the tokens.

Source: "fertility" for tokens per word is a term of Rust et al. 2021, How Good is Your Tokenizer?
"""

import codecs
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lm_core.stand_ins import stand_in_files
from lm_core.user_error import UserError
from tokenizer_bpe.inspection.sample_sentences import NUM_WORDS, SENTENCES
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import tokenizer_json

TEXT_BYTES = 2_000_000  # `tokenizers` takes about 2 seconds for it, five times
ROUNDS = 5
OURS, COMPILED = "ours", "compiled"
NOT_COMPILED = "not compiled"
NOT_INSTALLED = "not installed"
REFUSES = "refuses it"
OTHER_IDS = "other ids"

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Figures:
    """The figures of one tokenizer.

    Attributes:
        name: the caller's name for it.
        vocab_size: the number of its tokens.
        bytes_per_token: on the text of the comparison.
        tokens_per_word: on the same text, whose words are what whitespace separates.
        fertility: language code -> tokens per word of the sample sentences.
        speeds: encoder -> MB/s (10**6 bytes of UTF-8) on the text, or the reason for no figure:
            NOT_COMPILED (a pattern or a file of your own), NOT_INSTALLED, REFUSES (the vocabulary
            or the pattern) or OTHER_IDS.
    """

    name: str
    vocab_size: int
    bytes_per_token: float
    tokens_per_word: float
    fertility: dict[str, float]
    speeds: dict[str, float | str]


def compare_tokenizers(
    tokenizers: Sequence[tuple[str, Tokenizer]],
    text: str,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    on_turn: Callable[[], None] = lambda: None,
) -> list[Figures]:
    """Return the figures of each tokenizer, in order.

    Args:
        tokenizers: name and tokenizer.
        text: for bytes per token and for speed; not empty.
        rounds: a speed is the median of this many; every encoder has one turn per round.
        clock: a function that returns seconds.
        on_turn: called after each round of each tokenizer, `num_turns` times; for a progress bar.
    """
    if not text:
        raise UserError("the text to compare on is empty; give one that contains text")
    bare = [tokenizer for _, tokenizer in tokenizers]
    speeds = encoding_speeds(bare, text, rounds, clock, on_turn)
    num_tokens = [len(tokenizer.encode(text)) for tokenizer in bare]
    num_words = max(len(text.split()), 1)
    return [
        Figures(
            name=name,
            vocab_size=len(tokenizer.vocab),
            bytes_per_token=len(text.encode()) / tokens,
            tokens_per_word=tokens / num_words,
            fertility=fertility(tokenizer),
            speeds=speed,
        )
        for (name, tokenizer), tokens, speed in zip(tokenizers, num_tokens, speeds, strict=True)
    ]


def fertility(tokenizer: Tokenizer) -> dict[str, float]:
    """Return language code -> tokens per word of the sample sentences."""
    return {
        code: sum(map(len, tokenizer.encode_batch(sentences))) / NUM_WORDS[code]
        for code, sentences in SENTENCES.items()
    }


def our_encoder(tokenizer: Tokenizer) -> Encode:
    """Return the encoder of a twin with an empty cache."""
    special_tokens = list(tokenizer.special_tokens)
    return Tokenizer(tokenizer.vocab, tokenizer.merges, special_tokens, tokenizer.pattern).encode


def compiled_encoder(tokenizer: Tokenizer) -> Encode | str:
    """Return the encoder of our compiled twin with an empty cache; NOT_COMPILED for other patterns.

    Kernels that are not on disk yet are compiled here, not in a timed turn.
    """
    if stand_in_files("tokenizer_bpe"):
        return NOT_COMPILED
    from tokenizer_bpe.compiled.tokenizer import Tokenizer as CompiledTokenizer
    from tokenizer_bpe.compiled.word_boundaries import word_rule
    from tokenizer_bpe.compiled.word_merging import LONG_WORD

    if word_rule(tokenizer.pattern) is None:
        return NOT_COMPILED
    CompiledTokenizer.of(tokenizer).encode("a " + "a" * (LONG_WORD + 1))
    return CompiledTokenizer.of(tokenizer).encode


def tiktoken_encoder(tokenizer: Tokenizer) -> Encode:
    """Return tiktoken's encoder with the same vocabulary; ImportError if it is not installed."""
    import tiktoken

    special = set(tokenizer.special_tokens.values())
    encoding = tiktoken.Encoding(
        "compared",
        pat_str=tokenizer.pattern,
        mergeable_ranks={t: i for i, t in sorted(tokenizer.vocab.items()) if i not in special},
        special_tokens=tokenizer.special_tokens,
    )
    return lambda text: encoding.encode(text, allowed_special="all")


def hugging_face_encoder(tokenizer: Tokenizer) -> Encode:
    """Return the `tokenizers` encoder of the same tokenizer.json; ImportError if it is not
    installed.
    """
    import tokenizers

    theirs = tokenizers.Tokenizer.from_str(tokenizer_json(tokenizer).decode())
    return lambda text: theirs.encode(text, add_special_tokens=False).ids


ENCODERS: dict[str, Callable[[Tokenizer], Encode | str]] = {
    OURS: our_encoder,
    COMPILED: compiled_encoder,
    "tiktoken": tiktoken_encoder,
    "tokenizers": hugging_face_encoder,
}


def num_turns(num_tokenizers: int, rounds: int = ROUNDS) -> int:
    """Return how often `compare_tokenizers` calls `on_turn`."""
    return num_tokenizers * rounds


def encoding_speeds(
    tokenizers: Sequence[Tokenizer],
    text: str,
    rounds: int,
    clock: Callable[[], float],
    on_turn: Callable[[], None] = lambda: None,
) -> list[dict[str, float | str]]:
    """Return for each tokenizer: encoder -> MB/s, or the reason for no figure.

    Every turn makes a new encoder before the clock starts, so nothing is cached. The turns of all
    encoders alternate, so that a slow phase of the machine does not affect only one of them.
    """
    megabytes = len(text.encode()) / 1e6
    seconds: list[dict[str, list[float]]] = [{name: [] for name in ENCODERS} for _ in tokenizers]
    problems: list[dict[str, str]] = [{} for _ in tokenizers]
    for _ in range(rounds):
        for tokenizer, taken, problem in zip(tokenizers, seconds, problems, strict=True):
            expected: list[int] | None = None
            for name in ENCODERS:
                if name in problem:
                    continue
                made = _encoder(name, tokenizer)
                if isinstance(made, str):
                    problem[name] = made
                    continue
                start = clock()
                ids = made(text)
                taken[name].append(clock() - start)
                expected = list(ids) if name == OURS else expected
                if list(ids) != expected:
                    problem[name] = OTHER_IDS
            on_turn()
    return [
        {name: problem.get(name) or megabytes / median(taken[name]) for name in ENCODERS}
        for taken, problem in zip(seconds, problems, strict=True)
    ]


def _encoder(name: str, tokenizer: Tokenizer) -> Encode | str:
    """Return the encoder of that name, or the reason why there is none."""
    try:
        return ENCODERS[name](tokenizer)
    except ImportError:
        return NOT_INSTALLED
    except Exception:  # libraries raise different errors; `tokenizers` raises a bare Exception
        if name in (OURS, COMPILED):
            raise
        return REFUSES


def beginning_of(path: Path, num_bytes: int = TEXT_BYTES) -> str:
    """Return the first `num_bytes` of a file, without a partial character at the end.

    Raises ValueError if it is not UTF-8, and OSError if it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(num_bytes + 1)
    is_whole = len(content) <= num_bytes
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(content[:num_bytes], is_whole)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 (byte {error.start}); convert the file to UTF-8 first"
        ) from None


def standard_library_text(num_bytes: int = TEXT_BYTES) -> str:
    """Return about `num_bytes` of the source of this Python's standard library; "" if it is
    missing.

    Every machine has this text, and it is the same for the same version of Python.
    """
    parts: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if size >= num_bytes:
            break
        parts.append(beginning_of(path, num_bytes - size))
        size += len(parts[-1].encode())
    return "".join(parts)
