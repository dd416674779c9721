"""From the pages to the token shards of every variant, with the same two held-out sets in each.

The splits of a variant's shards: "train" is what its filters leave of the training pages;
"validation" is what the full pipeline leaves of the held-out pages, and "unfiltered" the text of
all held-out pages as it was extracted. One tokenizer, trained on the training documents of the full
pipeline, serves all variants. What is finished is kept, and made again only if pages, settings or
code have changed.

What this leaves out: pages in an object store.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.executors.document_building import DocumentSettings, Pages, build_from_pages
from data_pipeline.shard_writing import TRAIN, VALIDATION, ShardSettings, plain_text_ids
from data_pipeline.sources.page_files import PageFile, read_page_files
from data_pipeline.sources.page_rows import RowKeys
from lm_core.artifact_paths import file_sha256, read_json, remove_path, write_json
from lm_core.formats.documents import Document, read_documents, text_bytes
from lm_core.formats.token_shards import ShardWriter
from lm_core.special_tokens import END_OF_TEXT
from lm_core.user_error import UserError
from lm_course.data_ablation.held_out_pages import (
    MAX_CHARACTERS,
    HeldOutPages,
    held_out_documents,
    hold_out,
)
from lm_course.data_ablation.left_out_filters import ALL, FULL, Variant, without
from lm_course.data_steps.tokenizer import STEP as TOKENIZER_STEP
from lm_course.data_steps.tokenizer import TokenizerStepSettings
from lm_course.pipeline.code_hash import code_hashes
from lm_course.pipeline.step import StepContext
from tokenizer_bpe.characters.either_kind import read_tokenizer, tokenizer_hash
from tokenizer_bpe.compiled.lesson_or_compiled import tokenizer_for
from training.runs.run_checkpoints import run_fingerprint

COMMAND = "lm data ablate"
MAX_HELD_OUT_TOKENS = 200_000
UNFILTERED = "unfiltered"  # a split
CHANGE_NO_DOCUMENTS = {"num_processes", "executor"}  # settings
FOR_TOKENIZER = ShardSettings(held_out="end")  # its last 5 % only measure the compression


@dataclass(frozen=True)
class VariantShards:
    """The shards of all variants of a recipe.

    Attributes:
        folder: where everything is written.
        files: the pages.
        keys: of the rows of JSON lines and parquet files.
        settings: of the full pipeline.
        tokenizer: the recipe's section.
        share: of the pages, near copies counted as one, that are held out.
        max_held_out_tokens: of each held-out set; the first documents in the order of their hashes,
            and so a random sample, are used.
    """

    folder: Path
    files: Sequence[PageFile]
    keys: RowKeys
    settings: DocumentSettings
    tokenizer: TokenizerStepSettings
    share: float
    max_held_out_tokens: int = MAX_HELD_OUT_TOKENS

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """All that decides the result besides a variant's settings."""
        return {
            "pages": [[file.name, file_sha256(file.path)] for file in self.files],
            "keys": self.keys.model_dump(),
            "full": self.settings.model_dump(exclude=CHANGE_NO_DOCUMENTS),
            "tokenizer": self.tokenizer.model_dump(),
            "share": self.share,
            "max_held_out_tokens": self.max_held_out_tokens,
            "code": code_hashes(__name__),
        }

    @cached_property
    def held_out(self) -> HeldOutPages:
        """The pages that are held out; the documents of both held-out sets are made with them."""
        kept = self._unless_made("held_out", {}, self._make_held_out)
        return HeldOutPages(frozenset(kept["measured"]), frozenset(kept["copies"]))

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer of all variants."""
        return self.folder / "tokenizer" / "tokenizer.json"

    def shards_of(self, variant: Variant) -> Path:
        """Return the folder of a variant's shards."""
        return self.folder / "variants" / variant.name / "shards"

    def make(self, variants: Sequence[Variant]) -> list[dict[str, Any]]:
        """Make the shards of all variants, the full pipeline first, and return for each the number
        of its documents and tokens by split, and the documents of each step.
        """
        made = []
        for variant in variants:
            parts = {"variant": variant.settings.model_dump(exclude=CHANGE_NO_DOCUMENTS)}
            name = f"variants/{variant.name}/made"
            made.append(self._unless_made(name, parts, lambda each=variant: self._make(each)))
        return made

    def _unless_made(
        self, name: str, parts: dict[str, Any], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what `make` returned in an earlier command with the same inputs, or call it."""
        record = self.folder / f"{name}.json"
        fingerprint = run_fingerprint(**self.inputs, **parts)
        if record.exists():
            done = read_json(record, "the record of a variant", COMMAND)
            if done["fingerprint"] == fingerprint:
                return done["summary"]
            record.unlink()
        summary = make()
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"fingerprint": fingerprint, "summary": summary})
        return summary

    def _pages(self, wanted: Callable[[str], bool]) -> Pages:
        pages = read_page_files(self.files, self.settings.max_page_bytes, self.keys)
        return ((page, source) for page, source in pages if wanted(page.url))

    def _make_held_out(self) -> dict[str, Any]:
        extracted, clean = self.folder / "extracted", self.folder / "clean"
        print("text of all pages, without a filter:", flush=True)
        build_from_pages(self._pages(lambda url: True), extracted, without(self.settings, [ALL]))
        settings = self.settings
        pages = hold_out(
            extracted, self.share, settings.minhash, self.folder, settings.num_processes
        )
        print("held-out pages through all filters:", flush=True)
        build_from_pages(self._pages(lambda url: url not in pages.copies), clean, settings)
        for folder, what in ((extracted, "text"), (clean, "text that passes all filters")):
            if not held_out_documents(folder, pages):
                raise UserError(
                    f"no held-out page has {what}: --held-out {self.share:g} is too small a share "
                    "of these pages; give a larger one, or more pages"
                )
        return {"measured": sorted(pages.measured), "copies": sorted(pages.copies)}

    def _make(self, variant: Variant) -> dict[str, Any]:
        documents = self.shards_of(variant).with_name("documents")
        pages = self._pages(self.held_out.is_for_training)
        print(f"left out: {variant.left_out}", flush=True)
        counts, _ = build_from_pages(pages, documents, variant.settings)
        if variant.left_out == FULL:
            self._train_tokenizer(documents)
        sets = {
            VALIDATION: held_out_documents(self.folder / "clean", self.held_out),
            UNFILTERED: held_out_documents(self.folder / "extracted", self.held_out),
        }
        sizes = self._write_shards(variant, documents, sets)
        remove_path(documents)
        left = sizes[TRAIN]
        print(f"  {left['documents']:,} documents, {left['tokens']:,} tokens", flush=True)
        steps = [[row["step"], row["documents_in"], row["documents_out"]] for row in counts]
        return {"splits": sizes, "steps": steps}

    def _train_tokenizer(self, documents: Path) -> None:
        """Train the tokenizer by the step of the pipeline."""
        files = (self.tokenizer_file, self.tokenizer_file.with_name("merges.txt"))
        self.tokenizer_file.parent.mkdir(parents=True, exist_ok=True)
        TOKENIZER_STEP.run(
            StepContext(
                step=TOKENIZER_STEP.name,
                root=self.folder,
                sections={"tokenizer": self.tokenizer, "shards": FOR_TOKENIZER},
                inputs={"documents": (documents,)},
                outputs={"tokenizer": files},
            )
        )

    def _write_shards(
        self, variant: Variant, documents: Path, sets: dict[str, list[Document]]
    ) -> dict[str, dict[str, int]]:
        """Write the shards, and return documents, tokens and bytes of each split."""
        tokenizer = tokenizer_for(read_tokenizer(self.tokenizer_file), text_bytes(documents))
        lengths = np.asarray(tokenizer.byte_lengths())
        hashed = tokenizer_hash(self.tokenizer_file)
        sizes: dict[str, dict[str, int]] = {}
        folder = self.shards_of(variant)
        end = tokenizer.special_tokens[END_OF_TEXT]
        with ShardWriter(folder, hashed, tokenizer.vocab_size, lengths) as writer:
            texts: dict[str, Iterable[str]] = {
                TRAIN: (document.text for document in read_documents(documents)),
                **{split: _cut(found) for split, found in sets.items()},
            }
            for split, found in texts.items():
                count = sizes.setdefault(split, {"documents": 0, "tokens": 0, "bytes": 0})
                for text in found:
                    ids = np.append(np.asarray(plain_text_ids(tokenizer, text), dtype=int), end)
                    is_full = count["tokens"] + len(ids) > self.max_held_out_tokens
                    if split in sets and is_full and count["documents"]:
                        break
                    writer.add(split, ids)
                    count["documents"] += 1
                    count["tokens"] += len(ids)
                    count["bytes"] += len(text.encode())
        return sizes


def _cut(documents: Iterable[Document]) -> Iterator[str]:
    return (document.text[:MAX_CHARACTERS] for document in documents)
