"""Features of a tokenizer.json that we do not support, with one clear ValueError for each.

This module is given, not a lesson; `tokenizer_file` calls it. Files that `tokenizers` itself does
not load may cause any error. For the meaning of a pattern in `tokenizers`, see `pattern_dialects`.

What this leaves out: truncation and padding, which concern batches (`transformers` saves those of
its last call and sets them again at the next).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_core.user_error import UserError
from tokenizer_bpe.formats.damaged_files import a_list, an_object
from tokenizer_bpe.formats.pattern_dialects import pattern_read
from tokenizer_bpe.pretokenization import GPT2_PATTERN, split_digits_pattern
from tokenizer_bpe.templates.added_tokens import TextToken


def refuse(path: Path, foreign: Iterable[str]) -> None:
    """Raise ValueError for the first of the foreign parts, if there is one."""
    for part in foreign:
        raise UserError(
            f"{path} has {part}, which plain byte-level BPE does not have; use the `tokenizers` "
            "library for this file, because our ids would differ"
        )


def adds_no_ids(post_processor: Any, where: str = "post_processor") -> bool:
    """Return True for no post-processor, for ByteLevel, which only moves offsets, and for the empty
    template that `transformers` saves.
    """
    if post_processor is None:
        return True
    found = an_object(post_processor, where)
    if found.get("type") == "Sequence":
        parts = a_list(found.get("processors"), f"{where}.processors")
        return all(adds_no_ids(part, where) for part in parts)
    if found.get("type") == "ByteLevel":
        return True
    pieces = a_list(found.get("single") or [], f"{where}.single")
    names = [list(an_object(piece, f"{where}.single")) for piece in pieces]
    return names == [["Sequence"]]


def added_token_ids(
    path: Path, tokens: Sequence[Mapping[str, Any]], vocab: Mapping[str, int]
) -> dict[str, int]:
    """Return text -> id of `added_tokens`; the text of a token that is not special is a
    `TextToken`.

    Args:
        path: path of the file, for messages.
        tokens: the `added_tokens` of the file.
        vocab: model.vocab, as written.

    Raises:
        ValueError: `tokenizers` would find one of them in other places, or give it another id.
    """
    refuse(
        path,
        (
            f"added token {token['content']!r}: {name}"
            for token in tokens
            for name in ("single_word", "lstrip", "rstrip")
            if token.get(name)
        ),
    )
    refuse(path, _out_of_turn(tokens))
    ids: dict[str, int] = {}
    free = len(vocab)
    for token in tokens:
        text, token_id = token["content"], token["id"]
        # `tokenizers` uses the ids of model.vocab, and numbers all other tokens itself.
        expected = ids.get(text, vocab.get(text, free))
        if token_id != expected:
            raise UserError(
                f"{path}: added token {text!r} has the id {token_id}, but `tokenizers` gives it "
                f"{expected}; add it to model.vocab with the right id"
            )
        ids[text if token.get("special", True) else TextToken(text)] = token_id
        free = max(free, token_id + 1)
    return ids


def _out_of_turn(tokens: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Yield tokens that `tokenizers` would search for in another order.

    It looks for normalized tokens in the text that the others leave over; we look for all at once.
    Without a normalizer, only the order matters, and only if two tokens can overlap.
    """
    late = [token["content"] for token in tokens if token.get("normalized")]
    for one in (token["content"] for token in tokens if not token.get("normalized")):
        for other in late:
            if _can_overlap(one, other) or _can_overlap(other, one):
                yield f"added token {other!r}: normalized, and it can overlap {one!r}"


def _can_overlap(first: str, second: str) -> bool:
    """Return whether `second` can begin inside `first`."""
    return any(
        first[place:].startswith(second[: len(first) - place]) for place in range(len(first))
    )


def pattern_of(path: Path, pre_tokenizer: Any) -> str:
    """Return the pattern by which a file cuts words; raise ValueError if it cuts them in another
    way.
    """
    where = f"{path}: pre_tokenizer"
    steps = [] if pre_tokenizer is None else [an_object(pre_tokenizer, where)]
    if steps and steps[0].get("type") == "Sequence":
        steps = a_list(steps[0].get("pretokenizers"), f"{where}.pretokenizers")
    kinds = [an_object(step, where).get("type") for step in steps]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"], ["Digits", "ByteLevel"]):
        raise UserError(
            f"{path}: the pre-tokenizer is {kinds}; expected ByteLevel, alone or after Digits or "
            "one Split by a pattern; use the `tokenizers` library for this file"
        )
    *splits, byte_level = steps
    uses_gpt2 = byte_level.get("use_regex", True)
    spaced = byte_level.get("add_prefix_space", True)  # `tokenizers` requires it in a file
    refuse(path, ["pre_tokenizer: add_prefix_space"] if spaced else [])
    if not splits:
        refuse(path, [] if uses_gpt2 else ["pre_tokenizer: ByteLevel without use_regex"])
        return GPT2_PATTERN
    if splits[0]["type"] == "Digits":
        alone = [] if uses_gpt2 else ["pre_tokenizer: Digits, and ByteLevel without use_regex"]
        refuse(path, alone)
        return split_digits_pattern(splits[0].get("individual_digits", False))
    refuse(path, ["pre_tokenizer: Split, and ByteLevel with use_regex"] if uses_gpt2 else [])
    behavior = splits[0].get("behavior")
    pattern = an_object(splits[0].get("pattern"), f"{where}: the pattern of Split").get("Regex")
    refuse(path, [f"pre_tokenizer: Split {behavior}"] if behavior != "Isolated" else [])
    by_text = not isinstance(pattern, str)
    refuse(path, ["pre_tokenizer: Split by a String"] if by_text else [])
    return pattern_read(pattern, str(path))
