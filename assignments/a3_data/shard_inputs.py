"""Folders of documents and a small tokenizer, for the checks of a3_data.20."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lm_core.formats.documents import Document, document_id, write_documents

PAIRS = {"ab": 0x110000, "<|": 0x110001}


class PairTokenizer:
    """Its ids are characters, `ab` and `<|` are one token each, and so is every special token."""

    def __init__(self, special_tokens: Sequence[str]) -> None:
        self.special_tokens = {name: 0x110100 + n for n, name in enumerate(special_tokens)}
        self.vocab_size = 0x110100 + len(special_tokens)

    def encode(self, text: str) -> list[int]:
        names = sorted(self.special_tokens, key=len, reverse=True)
        tokens = {name: self.special_tokens[name] for name in names} | PAIRS
        ids, start = [], 0
        while start < len(text):
            name = next((name for name in tokens if text.startswith(name, start)), None)
            ids.append(ord(text[start]) if name is None else tokens[name])
            start += 1 if name is None else len(name)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        names = {number: name for name, number in [*PAIRS.items(), *self.special_tokens.items()]}
        return "".join(names[number] if number in names else chr(number) for number in ids)


@contextmanager
def documents_folder(texts: Sequence[str]) -> Iterator[Path]:
    """A folder of documents with these texts, in this order."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "documents")
        documents = [
            Document(document_id(text), text, f"source {number % 2}", f"page:{number}", "en",
                     {"language": 0.5})
            for number, text in enumerate(texts)
        ]  # fmt: skip
        write_documents(folder, documents, [{"documents_out": len(documents)}])
        yield folder


def parts_of(found: object) -> list[tuple]:
    """The split documents as plain values."""
    return [
        (part.split, part.document.text, part.document.id, part.document.source,
         part.document.url, part.is_whole)
        for part in found
    ]  # fmt: skip
