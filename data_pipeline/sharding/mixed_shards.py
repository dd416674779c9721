"""The training split in a mixed order: each document is encoded once, and copied as often as the
mix has it.

The ids go to a temporary file in the order of the documents. Only then are the tokens of each
source known, which the weights divide. The mixed order then says which document is copied next. So
the disk must have room for the ids twice; memory holds two numbers for each document.
"""

import tempfile
from array import array
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from pydantic import Field

from data_pipeline.mixing import (
    MixedOrder,
    budget_per_source,
    documents_served,
    temperature_weights,
)
from lm_core.progress import progress_bar
from lm_core.settings import Settings
from lm_core.user_error import UserError


class MixingSettings(Settings):
    """How much of the training split comes from each source, a document's `source`.

    Attributes:
        weights: source -> weight. A name may be a pattern ("CC-MAIN-*"), whose weight the sources
            that match share by their tokens. Every source has one name that matches; 0 leaves it
            out. Without weights, they are tokens^(1 / temperature).
        temperature: 1 is proportional to the tokens of each source, infinity makes all equal.
        epochs: the tokens of the mix, as a multiple of those of all sources that have a weight.
        max_epochs: no source is read more often; the others take its place.
        seed: decides the order.
    """

    weights: dict[str, float] = Field(default_factory=dict)
    temperature: float = Field(default=1.0, gt=0)
    epochs: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    max_epochs: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    seed: int = 0


def source_weights(tokens: Mapping[str, int], settings: MixingSettings) -> dict[str, float]:
    """Return source -> weight, in the order of `tokens`, which maps sources to their tokens.

    Raises:
        ValueError: a source has no weight or two, or a weight no source, or all weights are 0.
    """
    if not settings.weights:
        return temperature_weights(tokens, settings.temperature)
    known = ", ".join(tokens)
    names: dict[str, str] = {}
    for source in tokens:
        exact = [name for name in settings.weights if name == source]
        found = exact or [name for name in settings.weights if fnmatchcase(source, name)]
        if len(found) != 1:
            problem = f"matches {' and '.join(found)}" if found else "has no weight"
            raise UserError(
                f"shards.mixing.weights: the source {source!r} {problem}; give each source one "
                f"weight, 0 to leave it out (sources: {known})"
            )
        names[source] = found[0]
    for name, weight in settings.weights.items():
        if name not in names.values():
            raise UserError(
                f"shards.mixing.weights: no source is named {name!r}; there are {known}"
            )
        if not 0 <= weight < float("inf"):
            raise UserError(f"shards.mixing.weights: {name} = {weight}; expected a number from 0")
    if not any(settings.weights.values()):
        raise UserError("shards.mixing.weights: all are 0; give at least one source a weight")
    of_name = dict.fromkeys(settings.weights, 0)
    for source, name in names.items():
        of_name[name] += tokens[source]
    return {s: settings.weights[name] * tokens[s] / of_name[name] for s, name in names.items()}


def planned_counts(
    documents: Mapping[str, int], tokens: Mapping[str, int], settings: MixingSettings
) -> dict[str, int]:
    """Return source -> number of documents in the mix, repeated ones counted again."""
    weights = source_weights(tokens, settings)
    used = sum(tokens[source] for source, weight in weights.items() if weight)
    budget = max(1, round(settings.epochs * used))
    amounts = budget_per_source(tokens, weights, budget, settings.max_epochs)
    return {
        source: documents_served(documents[source], amount, tokens[source])
        for source, amount in amounts.items()
    }


class EncodedDocuments:
    """The ids of the training documents, in a temporary file that ends with this process.

    Args:
        folder: where the file is; its disk needs the room.
        dtype: of the ids in the shards.
    """

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed by `close`
        self.dtype = dtype
        self.num_tokens = 0
        self.starts: dict[str, array[int]] = {}
        self.lengths: dict[str, array[int]] = {}

    def close(self) -> None:
        """Remove the file."""
        self.file.close()

    @property
    def documents(self) -> dict[str, int]:
        """Source -> number of documents."""
        return {source: len(lengths) for source, lengths in self.lengths.items()}

    def add(self, source: str, ids: np.ndarray) -> None:
        """Append a document, whose ids have the type of the shards."""
        self.file.write(ids)
        self.starts.setdefault(source, array("q")).append(self.num_tokens)
        self.lengths.setdefault(source, array("q")).append(len(ids))
        self.num_tokens += len(ids)

    def in_mixed_order(self, settings: MixingSettings) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (source, ids) of the mix; a document that occurs again is yielded again."""
        documents = self.documents
        tokens = {source: sum(lengths) for source, lengths in self.lengths.items()}
        counts = planned_counts(documents, tokens, settings)
        order = MixedOrder(documents, counts, settings.seed)
        self.file.flush()
        ids = np.memmap(self.file, self.dtype, "r", shape=(self.num_tokens,))
        with progress_bar("mix documents", len(order), "documents") as bar:
            for source, document, _ in order:
                start = self.starts[source][document]
                yield source, ids[start : start + self.lengths[source][document]]
                bar.advance()
