"""The word patterns of `.tiktoken` files, which list tokens and ranks but no pattern.

Source: the pattern strings in tiktoken's `openai_public.py`.
"""

from pathlib import Path

from tokenizer_bpe.pretokenization import GPT2_PATTERN, GPT4_PATTERN

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RANK_PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN, "o200k": O200K_PATTERN}
_NAMES = {
    "gpt2": "gpt2",
    "r50k_base": "gpt2",
    "p50k_base": "gpt2",
    "cl100k_base": "gpt4",
    "o200k_base": "o200k",
}


def name_of_pattern(file: Path) -> str:
    """Return the key of RANK_PATTERNS for a file that has the name of an encoding of tiktoken
    ("o200k_base.tiktoken"), and "gpt2" for any other.
    """
    return _NAMES.get(file.stem, "gpt2")
