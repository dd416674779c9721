"""Vocabularies that lack a few of the 256 bytes, as SmolLM2's lacks 21 that its training text never
held: control characters, and bytes that begin no character in use.

`tokenizers` leaves such a byte out of the ids without a word, so that the text is not what comes
back. We give it an id past the end of the vocabulary: no id of the file changes, every text comes
back, and a model, which has no row for it, refuses it by name. What this leaves out: a vocabulary
that lacks a byte of ordinary text; that one is damaged, and refused as before.
"""

import json
from collections.abc import Mapping

# Control characters, 0xc0 and 0xc1 (never in UTF-8), and the first bytes of the planes from 4 on,
# where no character is.
RARE_BYTES = frozenset([*range(0x20), 0x7F, 0xC0, 0xC1, *range(0xF1, 0x100)])


def with_every_byte(vocab: Mapping[int, bytes]) -> dict[int, bytes]:
    """`vocab`, and the rare bytes that it lacks under the ids that follow its largest."""
    present = set(vocab.values())
    missing = [byte for byte in sorted(RARE_BYTES) if bytes([byte]) not in present]
    free = max(vocab, default=-1) + 1
    return dict(vocab) | {free + place: bytes([byte]) for place, byte in enumerate(missing)}


def without_added_bytes(tokenizer_json: bytes, vocab_size: int) -> bytes:
    """A tokenizer.json without the entries from id `vocab_size` on: what other programs read must
    have no id that the model has no row for.
    """
    content = json.loads(tokenizer_json)
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {text: i for text, i in vocab.items() if i < vocab_size}
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"
