"""a3_data.11 to a3_data.14 on drawn inputs: the space of each graded function."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from minhash_oracle import first_of_group, ngram_hashes
from text_strategies import contents, few_forms, one_in, texts, word_lists

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.drawn_inputs.result_comparison import Within

NAME = "data_pipeline.minhash_dedup."


def plain(result):
    """An array with its type, as something that can be compared exactly."""
    return str(result.dtype), result.shape, result.tolist()


def close(value):
    return Within(float(value), 1e-9, 1e-12)


# a3_data.11 and 12

small = st.integers(0, 40)
numbers_64 = st.one_of(
    small.map(lambda number: number << 32), st.integers(0, 2**64 - 1), st.sampled_from([2**64 - 1])
)
numbers_32 = st.one_of(small, st.integers(0, 2**32 - 1))


@st.composite
def signature_inputs(draw):
    shingles = sorted(draw(st.sets(numbers_64, max_size=8)))
    if size := draw(near_constants(st.just(0), 2, 40_000)):
        rng = np.random.default_rng(size)
        shingles = np.unique(rng.integers(0, 2**64, size, dtype=np.uint64))
    count = draw(st.integers(1, 6))
    multipliers, offsets = (
        np.array(draw(st.lists(numbers_32, min_size=count, max_size=count)), dtype=np.uint32)
        for _ in range(2)
    )
    if size:  # one of the smallest values is that of a place near an end of a block
        places = st.sampled_from([0, size // 2, size - 1, size - 2, size - 3])
        place = max(draw(places), 0) % len(shingles)
        upper = np.uint32(shingles[place] >> np.uint64(32))
        offsets[:1] = -(multipliers[:1] | np.uint32(1)) * upper
    return {
        "shingles": np.array(shingles, dtype=np.uint64),
        "functions": (multipliers | np.uint32(1), offsets),
    }


WORDS = [
    Space(
        "a3_data.11",
        f"{NAME}normalize",
        arguments({"text": st.one_of(texts(), few_forms)}),
        draws=80,
    ),
    Space(
        "a3_data.11",
        f"{NAME}shingle_hashes",
        arguments(
            {"words": word_lists(), "ngram_words": near_constants(st.integers(1, 6), 1, 300)}
        ),
        view=plain,
        oracle=lambda words, ngram_words: np.array(
            ngram_hashes(words, ngram_words), dtype=np.uint64
        ),
    ),
    Space("a3_data.12", f"{NAME}signature", signature_inputs(), view=plain),
]


# a3_data.13

similarities = st.one_of(
    st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 0.8]), st.floats(0.3, 0.99)
)
thresholds = st.one_of(st.floats(0.05, 1), st.sampled_from([1.0, 0.8, 0.5, 0.95]))


def bands_and_rows(module, **settings):
    return tuple(module.bands_and_rows(module.MinHashSettings(**settings)))


def band_buckets(module, signatures, bands, rows):
    return [list(map(int, bucket)) for bucket in module.band_buckets(signatures, bands, rows)]


def as_groups(buckets):
    """A group may come once for each band in which it agrees; its order is free."""
    return sorted({tuple(sorted(bucket)) for bucket in buckets})


@st.composite
def tables(draw):
    """Signatures of few different numbers; some columns may be left over."""
    bands, rows = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    columns = bands * rows + draw(st.integers(0, 2))
    documents = draw(st.integers(0, 7))
    number = st.sampled_from([0, 1, 1, 1, 256, 2**32 - 1])
    row = st.lists(number, min_size=columns, max_size=columns)
    table = draw(st.lists(row, min_size=documents, max_size=documents))
    signatures = np.array(table, dtype=np.uint32).reshape(documents, columns)
    if size := draw(near_constants(st.just(0), 2, 3000)):
        signatures = np.repeat(signatures, 1 + size // max(1, documents), axis=0)[:size]
    return {"signatures": signatures, "bands": bands, "rows": rows}


BANDS = [
    Space(
        "a3_data.13",
        f"{NAME}candidate_probability",
        arguments(
            {
                "similarity": similarities,
                "bands": near_constants(st.integers(1, 64), 1, 500),
                "rows": near_constants(st.integers(1, 64), 1, 500),
            }
        ),
        view=close,
    ),
    Space(
        "a3_data.13",
        f"{NAME}false_negative_rate",
        arguments(
            {
                "bands": near_constants(st.integers(1, 64), 1, 500),
                "rows": near_constants(st.integers(1, 64), 1, 500),
                "threshold": similarities,
            }
        ),
        view=close,
    ),
    Space(
        "a3_data.13",
        f"{NAME}choose_bands",
        arguments(
            {"num_hashes": near_constants(st.integers(1, 300), 1, 600), "threshold": thresholds}
        ),
    ),
    Space(
        "a3_data.13",
        f"{NAME}bands_and_rows",
        arguments(
            {
                "num_hashes": st.one_of(st.sampled_from([16, 64, 128]), st.integers(1, 300)),
                "num_bands": st.sampled_from([None, None, 1, 4, 8, 16, 3, 7, 40]),
                "threshold": thresholds,
            }
        ),
        call=bands_and_rows,
        told=r"\d+",
    ),
    Space(
        "a3_data.13", f"{NAME}band_buckets", tables(), call=band_buckets, view=as_groups
    ),
]  # fmt: skip


# a3_data.14


@st.composite
def sets_of_numbers(draw):
    """Sorted sets; some are an earlier one with an element more or less."""
    made = []
    for _ in range(draw(st.integers(0, 7))):
        each = draw(one_in(6, st.just(set()), st.sets(st.integers(0, 30), max_size=10)))
        if made and draw(st.integers(0, 3)):
            each = draw(st.sampled_from(made)) ^ draw(st.sets(st.integers(0, 30), max_size=2))
        made.append(each)
    return [spread(each) for each in made]


def spread(numbers):
    """Large different 64-bit numbers, which differ in the upper 32 bits."""
    return np.array(
        sorted({(n + 1) * 0x9E3779B97F4A7C15 % 2**64 for n in numbers}), dtype=np.uint64
    )


@st.composite
def pairs_of_sets(draw):
    first, second = (draw(st.sets(st.integers(0, 15), max_size=10)) for _ in range(2))
    if draw(st.booleans()):
        second = first ^ draw(st.sets(st.integers(0, 15), max_size=2))
    return {"first": spread(first), "second": spread(second)}


def joined(module, size, pairs):
    components = module.Components(size)
    for first, second in pairs:
        components.join(first, second)
    return [int(components.find(item)) for item in range(size)]


@st.composite
def joins(draw):
    size = draw(near_constants(st.integers(1, 12), 1, 3000))
    item = st.integers(0, size - 1)
    return {"size": size, "pairs": draw(st.lists(st.tuples(item, item), max_size=16))}


def duplicate_components(module, sets, **settings):
    firsts = module.duplicate_components(sets, module.MinHashSettings(**settings))
    return [int(first) for first in firsts]


def deduplicate_documents(module, files, twin, inside, as_text, **settings):
    with tempfile.TemporaryDirectory() as temporary:
        paths, folder = [], Path(temporary, "out", "deep")
        for name, content in files.items():
            paths.append(Path(temporary, "in", name))
            paths[-1].parent.mkdir(exist_ok=True)
            paths[-1].write_bytes(content)
        if twin and paths:
            paths.append(Path(temporary, "twin", paths[0].name))
            paths[-1].parent.mkdir()
            paths[-1].write_bytes(b"another text of its own")
        if inside:
            folder = Path(temporary, "out", "..", "in")
        given = list(map(str, paths)) if as_text else paths
        got = module.deduplicate_documents(
            given, folder=str(folder) if as_text else folder, **settings
        )
        assert not inside or not paths, "an input's folder was accepted"
        written = {path.name: path.read_bytes() for path in folder.iterdir()}
        return [Path(path).relative_to(folder).as_posix() for path in got], written


CLUSTERS = [
    Space("a3_data.14", f"{NAME}jaccard", pairs_of_sets(), view=close),
    Space(
        "a3_data.14",
        f"{NAME}Components.join",
        joins(),
        call=joined,
        oracle=lambda size, pairs: first_of_group(size, pairs),
    ),
    Space(
        "a3_data.14",
        f"{NAME}duplicate_components",
        st.builds(
            lambda sets, settings: {"sets": sets, **settings},
            sets_of_numbers(),
            arguments(
                {
                    "threshold": st.sampled_from([0.5, 0.6, 2 / 3, 0.75, 0.8, 0.9, 1.0]),
                    "num_hashes": st.sampled_from([16, 24, 64]),
                    "num_bands": st.sampled_from([None, 1, 2, 4, 8, 3]),
                    "seed": st.sampled_from([0, 0, 0, 1]),
                }
            ),
        ),
        call=duplicate_components,
        draws=50,
    ),
    Space(
        "a3_data.14",
        f"{NAME}deduplicate_documents",
        arguments(
            {
                "files": contents(),
                "twin": one_in(12, st.just(True), st.just(False)),
                "inside": one_in(12, st.just(True), st.just(False)),
                "as_text": st.booleans(),
                "num_hashes": st.sampled_from([16, 64]),
                "num_bands": st.sampled_from([16, 16, 8, 1, 3]),
                "ngram_words": st.integers(1, 3),
                "threshold": st.sampled_from([0.4, 0.5, 0.6, 0.8, 1.0]),
            }
        ),
        call=deduplicate_documents,
        draws=60,
    ),
]

test_as_the_reference, test_contracts = drawn_checks([*WORDS, *BANDS, *CLUSTERS])
