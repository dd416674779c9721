"""Lesson or compiled: which of two implementations that give the same result is the faster one.

numba takes half a second to import, and about 12 seconds to compile once on a new machine; the
compiled code then trains and encodes several times as fast. So it pays for large texts only. Where
a person's own files stand in for the lesson's, these run, whatever the size.
"""

from lm_core.stand_ins import stand_in_files
from tokenizer_bpe.tokenizer import Tokenizer

COMPILED_FROM_BYTES = 20_000_000


def takes_compiled(num_bytes: int, pattern: str) -> bool:
    """True where a text of `num_bytes` is large enough, the pattern is one that compiled code
    knows, and nobody's own tokenizer is to be used.
    """
    if num_bytes < COMPILED_FROM_BYTES or stand_in_files("tokenizer_bpe"):
        return False
    from tokenizer_bpe.compiled.word_boundaries import word_rule

    return word_rule(pattern) is not None


def tokenizer_for(tokenizer: Tokenizer, num_bytes: int) -> Tokenizer:
    """The tokenizer itself, or its compiled twin, for a text of `num_bytes`."""
    if not takes_compiled(num_bytes, tokenizer.pattern):
        return tokenizer
    from tokenizer_bpe.compiled.tokenizer import Tokenizer as CompiledTokenizer

    return CompiledTokenizer.of(tokenizer)
