"""a3.8: packed documents, and padded ones."""

import copy

import numpy as np
import pytest
import torch
from batch_oracles import (
    attention_losses,
    check_apart,
    check_rows,
    numbers_of,
)

from lm_course.grading.comparisons import (
    Words,
    check_close,
    check_equal,
    check_raises,
    check_true,
)

pytestmark = pytest.mark.usefixtures("a3")  # one thread
PACKED = "training.packed_documents"


@pytest.mark.task("a3.8")
@pytest.mark.parametrize(
    ("lengths", "width", "expected"),
    [
        ([3, 7, 4, 5], 10, [[1, 0], [3, 2]]),
        ([6, 3, 2, 2], 10, [[0, 2, 3], [1]]),
        ([600, 399, 200, 200], 1000, [[0, 2, 3], [1]]),
        ([6000, 3999, 2000, 2000], 10_000, [[0, 2, 3], [1]]),
    ],
    ids=["two rows", "the best is not the longest", "1 left", "1 left of 10,000"],
)
def test_rows_by_hand(implementation, lengths, width, expected):
    """The handout's examples: in a row of 10, 7 + 3 and 5 + 4; 6 + 2 + 2 and 3. And long rows."""
    rows = implementation(PACKED).best_fit_rows(lengths, width)
    what = f"best_fit_rows({lengths}, {width})"
    check_rows(rows, lengths, width, what)
    got = [[row[0], *sorted(row[1:])] for row in rows]
    check_equal(got, expected, f"{what}, the others of a row sorted")


@pytest.mark.task("a3.8")
def test_rows_are_full(implementation):
    """400 documents of 8 to 60 tokens: no set of them can be tried out."""
    lengths = np.random.default_rng(4).integers(8, 61, 400).tolist()
    rows = implementation(PACKED).best_fit_rows(lengths, 128)
    check_rows(rows, lengths, 128, "best_fit_rows of 400 documents in rows of 128")


@pytest.mark.task("a3.8")
@pytest.mark.parametrize("lengths", [[1] * 2500, [3, 2, 2, 1, 1] * 400], ids=["equal", "mixed"])
def test_rows_of_many_short_documents(implementation, lengths):
    """More of them in a row than Python has frames (1,000)."""
    what = f"best_fit_rows of {len(lengths):,} documents in rows of 2,000"
    try:
        rows = implementation(PACKED).best_fit_rows(lengths, 2000)
    except RecursionError:
        sentence = "Python calls at most 1,000 functions in one another: use a loop over documents"
        check_true(False, f"{what} fails: RecursionError", {"likely": Words(sentence)})
    check_rows(rows, lengths, 2000, what)


@pytest.mark.task("a3.8")
@pytest.mark.parametrize("length", [0, 11])
def test_a_document_that_fits_no_row_is_refused(implementation, length):
    best_fit_rows = implementation(PACKED).best_fit_rows
    what = f"best_fit_rows([3, 9, {length}, 10], 10), with a document that fits no row,"
    check_rows(best_fit_rows([3, 9, 10], 10), [3, 9, 10], 10, "best_fit_rows([3, 9, 10], 10)")
    check_raises(
        ValueError, lambda: best_fit_rows([3, 9, length, 10], 10), what, ["2", f"{length}"]
    )


def documents_of(*lengths, dtype="uint16"):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 40, length).astype(dtype) for length in lengths]


def parts_of(batch, names, what):
    """Return the tensors of a batch by name, after a look at their names and types."""
    check_equal(sorted(batch.tensors), sorted(names), f"the names of the tensors of {what}")
    kinds = {"cu_seqlens": "torch.int32", "mask": "torch.bool"}
    for name in names:
        got = str(batch[name].dtype)
        check_equal(got, kinds.get(name, "torch.int64"), f"the type of {name} of {what}")
        check_true(batch[name].is_cpu, f"{name} of {what} is not on the CPU")
    return {name: batch[name].tolist() for name in names}


@pytest.mark.task("a3.8")
def test_packed_documents_by_hand(implementation):
    """The handout's example: 5 6 7 and 8 9."""
    module = implementation(PACKED)
    what = "packed_batch of 5 6 7 and 8 9"
    batch = module.packed_batch([np.array([5, 6, 7]), np.array([8, 9])])
    check_true(isinstance(batch, module.PackedBatch), f"{what} must be a PackedBatch")
    got = parts_of(batch, ("token_ids", "targets", "cu_seqlens"), what)
    causes = {
        "7 must not predict 8, which begins another document": [[5, 6, 7, 8]],
        "the shape is [1, tokens]": [5, 6, 8],
        "the last token of a document has nothing to predict: it is not an input": [
            [5, 6, 7, 8, 9]
        ],
    }
    check_equal(got["token_ids"], [[5, 6, 8]], f"token_ids of {what}", causes)
    causes = {
        "a target crosses the border: 8 is not what follows 7": [[6, 7, 8]],
        "each target is one further than its input": [[5, 6, 8]],
    }
    check_equal(got["targets"], [[6, 7, 9]], f"targets of {what}", causes)
    causes = {
        "the last border, the number of inputs, is missing": [0, 2],
        "the first border, 0, is missing": [2, 3],
        "these are lengths; borders add them up": [2, 1],
        "only the inputs count: a document of 3 tokens has 2": [0, 3, 5],
    }
    check_equal(got["cu_seqlens"], [0, 2, 3], f"cu_seqlens of {what}", causes)
    causes = {"these are all tokens; the model reads 3 inputs": 5, "this is the number of rows": 1}
    check_equal(batch.num_tokens, 3, f"num_tokens of {what}", causes)


@pytest.mark.task("a3.8")
def test_the_loss_is_that_of_the_documents_alone(implementation):
    """One layer of attention reads the batch as a model does: within borders."""
    documents = documents_of(7, 2, 13, 5)
    packed_batch = implementation(PACKED).packed_batch
    batch = packed_batch(copy.deepcopy(documents))
    rights = [torch.from_numpy(numbers_of(document)) for document in documents]
    alone = [attention_losses(x[:-1], x[1:], [0, len(x) - 1]).mean() for x in rights]
    weights = [len(x) - 1 for x in rights]
    expected = sum(mean * n for mean, n in zip(alone, weights, strict=True)) / sum(weights)
    borders = batch["cu_seqlens"].tolist()
    inputs, targets = batch["token_ids"], batch["targets"]
    check_equal(borders[-1], inputs.numel(), "the last border of packed_batch of 4 documents")
    got = attention_losses(inputs, targets, borders).mean()
    joined = torch.cat(rights)
    causes = {
        "the documents see each other": attention_losses(
            inputs, targets, [0, inputs.numel()]
        ).mean(),
        "the documents were joined before inputs and targets were cut": (
            attention_losses(joined[:-1], joined[1:], [0, len(joined) - 1]).mean()
        ),
    }
    what = "the mean loss of 4 documents in one packed batch, against that of each alone,"
    check_close(got, expected, 0, 1e-9, what, causes)


@pytest.mark.task("a3.8")
@pytest.mark.parametrize("name", ["packed_batch", "padded_batch"])
def test_batches_of_any_integers(implementation, name):
    """Ids above 32,767, arrays that are not contiguous, and results that belong to the caller."""
    tokens = np.arange(65_500, 65_536).astype(np.uint16)
    tokens.flags.writeable = False
    make = getattr(implementation(PACKED), name)
    wide = tokens.astype(np.int64) + 2**40
    others = [tokens[5:9].astype(">u2"), tokens[::-1][:5], wide[:3], tokens[:4].astype(np.uint32)]
    for documents in ([tokens[::3]], [tokens[::3], *others]):
        batch = make(documents)
        what = f"{name} of {len(documents)} documents with ids of 65,500 and more"
        check_apart(batch["token_ids"], batch["targets"], f"token_ids and targets of {what}")
        width = 1 if name == "packed_batch" else len(documents)
        for part, inside in (("token_ids", slice(None, -1)), ("targets", slice(1, None))):
            right = [numbers_of(document)[inside] for document in documents]
            got = batch[part]
            if name == "padded_batch":
                got = [row[: len(x)] for row, x in zip(got, right, strict=True)]
                got = torch.cat(got)
            causes = {"16 bits were read as a number with a sign": lambda got: min(got) < 0}
            expected = np.concatenate(right).tolist()
            check_equal(got.flatten().tolist(), expected, f"{part} of {what}", causes)
        check_equal(len(batch["token_ids"]), width, f"rows of {what}")


@pytest.mark.task("a3.8")
@pytest.mark.parametrize("name", ["packed_batch", "padded_batch"])
@pytest.mark.parametrize("lengths", [(3, 1), (0,), ()], ids=str)
def test_a_document_with_nothing_to_predict_is_refused(implementation, name, lengths):
    make = getattr(implementation(PACKED), name)
    what = f"{name} of documents with {list(lengths)} tokens"
    check_equal(make(documents_of(3, 2)).num_tokens, 3, f"num_tokens of {name} of 3 and 2 tokens")
    check_raises(ValueError, lambda: make(documents_of(*lengths)), what)


@pytest.mark.task("a3.8")
def test_padded_documents_by_hand(implementation):
    """The handout's example: 5 6 7 and 8 9, with 1 as the padding."""
    what = "padded_batch of 5 6 7 and 8 9 with padding_id 1"
    documents = [np.array([8, 9]), np.array([5, 6, 7])]
    batch = implementation(PACKED).padded_batch(documents, padding_id=1)
    got = parts_of(batch, ("token_ids", "targets", "mask"), what)
    causes = {
        "padding is on the right": [[1, 8], [5, 6]],
        "the padding is padding_id, not 0": [[8, 0], [5, 6]],
        "the last token of a document is not an input": [[8, 9, 1], [5, 6, 7]],
        "the last token of a document is not an input, also of one that is padded": [
            [8, 9],
            [5, 6],
        ],
    }
    check_equal(got["token_ids"], [[8, 1], [5, 6]], f"token_ids of {what}", causes)
    causes = {"padding is on the right": [[1, 9], [6, 7]], "padding": [[9, 0], [6, 7]]}
    check_equal(got["targets"], [[9, 1], [6, 7]], f"targets of {what}", causes)
    causes = {
        "the padding must not count": [[True, True], [True, True]],
        "True is where a target counts": [[False, True], [False, False]],
    }
    check_equal(got["mask"], [[True, False], [True, True]], f"mask of {what}", causes)
    causes = {"padding is not counted": 4, "only the inputs count": 5}
    check_equal(batch.num_tokens, 3, f"num_tokens of {what}", causes)


@pytest.mark.task("a3.8")
def test_a_padding_id_may_be_a_token(implementation):
    """The mask follows the lengths: the padding of this tokenizer is also its end of text."""
    what = "padded_batch of 7 7 7 7 and 7 7 with padding_id 7 and width 4"
    documents = [np.array([7, 7, 7, 7]), np.array([7, 7])]
    batch = implementation(PACKED).padded_batch(documents, 4, 7)
    causes = {
        "a token that equals padding_id is not padding": lambda got: not any(got[0]),
        "the width is given: 4 inputs in each row": [[True, True, True], [True, False, False]],
    }
    expected = [[True, True, True, False], [True, False, False, False]]
    check_equal(batch["mask"].tolist(), expected, f"mask of {what}", causes)
    check_equal(batch["token_ids"].tolist(), [[7] * 4] * 2, f"token_ids of {what}")


@pytest.mark.task("a3.8")
@pytest.mark.parametrize("width", [0, 3])
def test_a_document_wider_than_the_row_is_refused(implementation, width):
    padded_batch = implementation(PACKED).padded_batch
    what = f"padded_batch of a document of 5 tokens with width {width}"
    batch = padded_batch(documents_of(2, 5), 4)
    check_equal(list(batch["mask"].shape), [2, 4], "shape of padded_batch(2 and 5 tokens, width 4)")
    check_raises(ValueError, lambda: padded_batch(documents_of(2, 5), width), what)
