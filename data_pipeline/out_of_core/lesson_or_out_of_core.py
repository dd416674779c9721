"""The choice between two searches for near duplicates with the same result: the lesson, which holds
everything in memory, and `duplicate_clusters`, which is compiled and works on disk.

The compiled code takes seconds to compile once on a new machine, so it is worthwhile for many or
long documents only. If a learner's own `minhash_dedup.py` replaces the lesson, its functions are
used for any number of documents.
"""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from data_pipeline.minhash_dedup import (
    MinHashSettings,
    duplicate_components,
    normalize,
    shingle_hashes,
)
from lm_core.stand_ins import stand_in_files

COMPILED_FROM_DOCUMENTS, COMPILED_FROM_CHARACTERS = 5_000, 50_000_000


def near_duplicate_clusters(
    texts: Iterable[str],
    settings: MinHashSettings,
    scratch_folder: Path | str,
    num_processes: int = 1,
) -> np.ndarray:
    """Return the first document of each document's cluster: int64 [documents].

    The arguments are those of `duplicate_clusters`; the lesson uses neither folder nor processes.
    """
    rest = iter(texts)
    own_lesson = any(path.name == "minhash_dedup.py" for path in stand_in_files("data_pipeline"))
    few, size = [], 0
    for text in rest:
        few.append(text)
        size += len(text)
        many = len(few) >= COMPILED_FROM_DOCUMENTS or size >= COMPILED_FROM_CHARACTERS
        if many and not own_lesson:
            from data_pipeline.out_of_core.duplicate_clusters import duplicate_clusters

            return duplicate_clusters(chain(few, rest), settings, scratch_folder, num_processes)
    sets = [shingle_hashes(normalize(text), settings.ngram_words) for text in few]
    return np.array(duplicate_components(sets, settings), dtype=np.int64)
