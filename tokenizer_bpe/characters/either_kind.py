"""Reading a tokenizer.json of either kind: byte-level BPE, or one token for each character.

A BPE file is read by the lesson, or by the learner's file that replaces it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizer_bpe import tokenizer_file
from tokenizer_bpe.characters.character_file import (
    character_json,
    is_character_json,
    read_character_json,
)
from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_protocol import AnyTokenizer

EitherKind = Tokenizer | CharacterTokenizer


def read_tokenizer(path: Path | str) -> EitherKind:
    """Read a tokenizer.json.

    Raises ValueError if it is missing, damaged, or of another kind.
    """
    path = Path(path)
    content = _character_contents(path)
    if content is None:
        return Tokenizer.from_hugging_face(path)
    vocab, special_tokens = read_character_json(path, content)
    return CharacterTokenizer(vocab, special_tokens=special_tokens)


def tokenizer_hash(path: Path | str) -> str:
    """Return the SHA-256, as 64 hex digits, of everything in a tokenizer.json that affects the ids,
    as `tokenizer_file.tokenizer_hash` does for BPE.
    """
    path = Path(path)
    content = _character_contents(path)
    if content is None:
        return tokenizer_file.tokenizer_hash(path)
    vocab, special_tokens = read_character_json(path, content)
    decisive = ["characters", sorted((i, token.hex()) for i, token in vocab.items())]
    return hashlib.sha256(json.dumps([*decisive, special_tokens]).encode()).hexdigest()


def hugging_face_files(tokenizer: AnyTokenizer) -> dict[str, bytes]:
    """Return the files with which `transformers.AutoTokenizer` loads one of our checkpoints."""
    files = tokenizer_file.hugging_face_files(tokenizer)
    if isinstance(tokenizer, CharacterTokenizer):
        files["tokenizer.json"] = character_json(tokenizer.vocab, tokenizer.special_tokens)
    return files


def _character_contents(path: Path) -> dict[str, Any] | None:
    """Return the contents of a file of characters; None for any other, or if it is missing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # the reader of BPE files says what is wrong
    return content if is_character_json(content) else None
