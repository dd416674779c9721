"""Vocabularies that lack a few of the 256 bytes.

SmolLM2's lacks 21 that never occurred in its training text: control characters, and bytes that
begin no character in use.

`tokenizers` silently omits such a byte, so that decoding does not give the same text. We give it an
id beyond the end of the vocabulary: no id of the file changes, every text survives a round trip,
and a model, which has no row for the id, rejects it by name.

What this leaves out: vocabularies that lack a byte of ordinary text; they are damaged, and still
rejected.
"""

import json
from collections.abc import Mapping

# Control characters, 0xc0 and 0xc1 (never in UTF-8), and the first bytes of planes 4 and above,
# which have no characters.
RARE_BYTES = frozenset([*range(0x20), 0x7F, 0xC0, 0xC1, *range(0xF1, 0x100)])


def with_every_byte(vocab: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return `vocab` with the rare bytes that it lacks, under the ids after its largest."""
    present = set(vocab.values())
    missing = [byte for byte in sorted(RARE_BYTES) if bytes([byte]) not in present]
    free = max(vocab, default=-1) + 1
    return dict(vocab) | {free + place: bytes([byte]) for place, byte in enumerate(missing)}


def without_added_bytes(tokenizer_json: bytes, vocab_size: int) -> bytes:
    """Return a tokenizer.json without the entries from id `vocab_size`, because a file for other
    programs must not have ids without a row in the model.
    """
    content = json.loads(tokenizer_json)
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {text: i for text, i in vocab.items() if i < vocab_size}
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"
