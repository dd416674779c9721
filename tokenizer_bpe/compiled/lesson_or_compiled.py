"""The choice between two implementations with the same results: the lesson and the compiled code.

numba takes half a second to import, and about 12 seconds to compile once on a new machine; the
compiled code then trains and encodes several times as fast. So it is worthwhile for large texts
only. If a learner's own files replace the lesson's, they are used for every size.

A program that does not want to choose calls `train_bpe`, `tokenizer_for` or `encode_file`. The
modules of the lessons and of `compiled` can still be used directly.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lm_core.stand_ins import stand_in_files
from tokenizer_bpe.inputs.input_checks import check_special_tokens, check_vocab_size
from tokenizer_bpe.inputs.text_files import check_text_file, decode_text, text_file_blocks
from tokenizer_bpe.merge_training import train_bpe_from_counts
from tokenizer_bpe.pretokenization import GPT2_PATTERN, ascii_pattern, count_words
from tokenizer_bpe.tokenizer import Tokenizer

COMPILED_FROM_BYTES = 20_000_000


def takes_compiled(num_bytes: int, pattern: str) -> bool:
    """Return whether to use compiled code.

    It is used if a text of `num_bytes` is large enough, compiled code knows the pattern, and no
    learner's own tokenizer is in use.
    """
    if num_bytes < COMPILED_FROM_BYTES or stand_in_files("tokenizer_bpe"):
        return False
    from tokenizer_bpe.compiled.word_boundaries import word_rule

    return word_rule(pattern) is not None


def train_bpe(
    input_path: Path | str,
    vocab_size: int,
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
    num_processes: int = 1,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train as `merge_training.train_bpe` does, with compiled code if the file is large.

    `num_processes` processes count words, or threads if the code is compiled.
    """
    path = Path(input_path)
    check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, special_tokens)
    check_text_file(path)
    if takes_compiled(path.stat().st_size, pattern):
        from tokenizer_bpe.compiled import merge_training as compiled

        return compiled.train_bpe(path, vocab_size, special_tokens, pattern, num_processes)
    counts = count_words(path, special_tokens, pattern, num_processes)
    return train_bpe_from_counts(counts, vocab_size, special_tokens)


def tokenizer_for(tokenizer: Tokenizer, num_bytes: int) -> Tokenizer:
    """Return the tokenizer itself or its compiled twin, for a text of `num_bytes`."""
    if not takes_compiled(num_bytes, tokenizer.pattern):
        return tokenizer
    from tokenizer_bpe.compiled.tokenizer import Tokenizer as CompiledTokenizer

    return CompiledTokenizer.of(tokenizer)


def encode_file(tokenizer: Tokenizer, path: Path | str) -> Iterator[np.ndarray]:
    """Yield the ids of a UTF-8 file in parts, so that memory does not grow with the file.

    Compiled code is used if the file is large. A file without spaces after letters or digits, and
    without special tokens, is one part; so is every file under a pattern of your own. Raises
    ValueError if the file is missing, empty or not UTF-8.
    """
    path = Path(path)
    check_text_file(path)
    encoder = tokenizer_for(tokenizer, path.stat().st_size)
    blocks = text_file_blocks(
        path, list(tokenizer.special_tokens), ascii_pattern(tokenizer.pattern) is not None
    )
    for offset, block in blocks:
        yield encoder.encode_to_array(decode_text(block, path, offset))
