"""Packed documents: rows without gaps, and the loss and gradient of each document alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_core.formats.token_shards import ShardWriter, TokenShards
from lm_core.user_error import UserError
from training.loss import cross_entropy, token_losses
from training.packed_documents import (
    DocumentBatches,
    PackedBatch,
    best_fit_rows,
    check_documents_stay_apart,
    packed_batch,
    packing_efficiency,
    padded_batch,
    pieces_of_documents,
)
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

VOCAB = 30


def make_model(**changes) -> TransformerLM:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "context_length": 12, "d_model": 16, "num_layers": 2}
    heads = {"num_heads": 4, "num_kv_heads": 2, "d_ff": 24, "tie_embeddings": False}
    return TransformerLM(ModelConfig(**shape | heads | changes)).double()


def make_documents(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, VOCAB, length).astype(np.uint16) for length in lengths]


def gradients_of(model: TransformerLM, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_a_small_example_by_hand():
    # 7 opens a row, and 3 fills it; 5 opens another, and 4 is all that is left.
    assert best_fit_rows([3, 7, 4, 5], 10) == [[1, 0], [3, 2]]
    assert packing_efficiency([3, 7, 4, 5], [[1, 0], [3, 2]], 10) == 0.95
    batch = packed_batch([np.array([5, 6, 7]), np.array([8, 9])])
    assert batch["token_ids"].tolist() == [[5, 6, 8]]
    assert batch["targets"].tolist() == [[6, 7, 9]]
    assert batch["cu_seqlens"].tolist() == [0, 2, 3] and batch.num_tokens == 3
    padded = padded_batch([np.array([5, 6, 7]), np.array([8, 9])], padding_id=1)
    assert padded["token_ids"].tolist() == [[5, 6], [8, 1]]
    assert padded["targets"].tolist() == [[6, 7], [9, 1]]
    assert padded["mask"].tolist() == [[True, True], [True, False]] and padded.num_tokens == 3


@given(st.lists(st.integers(1, 20), max_size=60))
def test_every_document_is_in_one_row_and_no_row_overflows(lengths):
    rows = best_fit_rows(lengths, 20)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    sums = [sum(lengths[number] for number in row) for row in rows]
    assert all(0 < total <= 20 for total in sums)
    # No two rows fit into one: what opened the later row would have gone into the earlier.
    assert all(a + b > 20 for i, a in enumerate(sums) for b in sums[:i])


@given(st.lists(st.integers(1, 12), max_size=9), st.integers(12, 30))
def test_a_row_is_the_longest_document_and_the_others_that_fill_most(lengths, context_length):
    """Compared with every set of the documents that are left."""
    left = set(range(len(lengths)))
    for first, *others in best_fit_rows(lengths, context_length):
        assert lengths[first] == max(lengths[number] for number in left)
        left.remove(first)
        space = context_length - lengths[first]
        sums = {0}
        for number in left:
            sums |= {total + lengths[number] for total in sums}
        best = max(total for total in sums if total <= space)
        assert sum(lengths[number] for number in others) == best
        left -= set(others)


@pytest.mark.parametrize(("mean", "deviation"), [(4.0, 1.0), (3.7, 0.3), (5.4, 0.2)])
def test_rows_are_full(mean, deviation):
    """Lengths like those of texts; like those of docstrings, all short; all almost half a row."""
    drawn = np.random.default_rng(0).lognormal(mean, deviation, 5000)
    lengths = drawn.astype(int).clip(20, 256).tolist()
    efficiency = packing_efficiency(lengths, best_fit_rows(lengths, 256), 256)
    assert efficiency > (0.99 if mean < 5 else 0.8)


@pytest.mark.parametrize("length", [0, 11])
def test_a_document_that_fits_no_row_is_refused(length):
    with pytest.raises(UserError, match=f"document 1 has {length} tokens; expected 1 to 10"):
        best_fit_rows([3, length], 10)


@pytest.mark.parametrize("make", [packed_batch, padded_batch])
@pytest.mark.parametrize("lengths", [(3, 1), (0,), ()])
def test_a_document_with_nothing_to_predict_is_refused(make, lengths):
    with pytest.raises(UserError, match="at least 2 are needed"):
        make(make_documents(*lengths))


@pytest.mark.parametrize("make", [packed_batch, padded_batch])
def test_documents_may_lie_in_memory_in_any_way(make):
    read_only = np.array([5, 6, 7])
    read_only.flags.writeable = False
    batch = make([read_only, np.array([9, 8])[::-1]])
    batch["token_ids"].fill_(0)
    assert batch["targets"].flatten()[:3].tolist() == [6, 7, 9] and read_only[0] == 5


@pytest.mark.parametrize("width", [0, 3])
def test_a_document_wider_than_the_row_is_refused(width):
    with pytest.raises(UserError, match=rf"has 5 tokens; expected at most .* = {width + 1}"):
        padded_batch(make_documents(2, 5), width)
    assert padded_batch(make_documents(2, 5), 4)["mask"].sum() == 5


@pytest.mark.parametrize("changes", [{}, {"position": "learned"}, {"qk_norm": True}], ids=str)
def test_loss_and_gradients_are_those_of_the_documents_alone(changes):
    model, documents = make_model(**changes), make_documents(7, 2, 13, 5)
    batch = packed_batch(documents)
    logits = model(batch["token_ids"], cu_seqlens=batch["cu_seqlens"])
    packed = token_losses(logits, batch["targets"]).mean()
    alone = [packed_batch([document]) for document in documents]
    total = sum(token_losses(model(one["token_ids"]), one["targets"]).sum() for one in alone)
    expected = total / sum(len(document) - 1 for document in documents)
    padded = padded_batch(documents)
    masked = cross_entropy(model(padded["token_ids"]), padded["targets"], padded["mask"])
    rights = gradients_of(model, expected)
    for loss in (packed, masked):  # the loss itself is in float32
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        for found, right in zip(gradients_of(model, loss), rights, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-8)


def gradient_at_embeddings(model: TransformerLM, run, tokens: slice) -> torch.Tensor:
    """Return the gradient of the loss of some tokens with respect to the embedded inputs."""
    kept = []
    hook = model.token_embedding.register_forward_hook(
        lambda module, given, result: kept.append(result) or result.retain_grad()
    )
    batch = packed_batch(make_documents(6, 7, 4))
    token_losses(run(batch), batch["targets"])[:, tokens].sum().backward()
    hook.remove()
    return kept[0].grad[0]


def positions_alone(model: TransformerLM, batch: PackedBatch) -> torch.Tensor:
    """Return what a packing without block-diagonal attention computes: only positions restart."""
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0, 1, 2])
    x = model.token_embedding(batch["token_ids"])
    for block in model.blocks:
        x = block(x, model.rotary, positions)
    return model._logits(model.final_norm(x))


def test_a_document_is_never_seen_across_its_border():
    model = make_model()
    second = slice(5, 11)

    def run(batch: PackedBatch) -> torch.Tensor:
        return model(batch["token_ids"], cu_seqlens=batch["cu_seqlens"])

    gradient = gradient_at_embeddings(model, run, second)
    assert torch.all(gradient[:5] == 0) and torch.all(gradient[11:] == 0)
    assert torch.all(gradient[second].abs().sum(-1) > 0)
    leaking = gradient_at_embeddings(model, lambda batch: positions_alone(model, batch), second)
    assert torch.all(leaking[:5].abs().sum(-1) > 0), "positions that start again keep nothing apart"


def test_borders_stay_on_the_cpu():
    batch = packed_batch(make_documents(6, 7)).to(torch.device("meta"))
    assert isinstance(batch, PackedBatch) and batch.num_tokens == 11
    assert batch["token_ids"].is_meta and batch["targets"].is_meta and batch["cu_seqlens"].is_cpu


@given(st.lists(st.integers(2, 20), min_size=1, max_size=12), st.integers(1, 6))
def test_a_batch_is_split_between_documents(lengths, parts):
    batch = packed_batch(make_documents(*lengths))
    pieces = batch.split(parts)
    assert 1 <= len(pieces) <= parts
    for name in ("token_ids", "targets"):
        assert torch.equal(torch.cat([piece[name] for piece in pieces], 1), batch[name])
    documents = [piece["cu_seqlens"].diff().tolist() for piece in pieces]
    assert [count for each in documents for count in each] == [length - 1 for length in lengths]
    assert all(int(piece["cu_seqlens"][0]) == 0 for piece in pieces)
    assert [piece.num_tokens for piece in pieces] == [sum(each) for each in documents]
    if parts == 2 and len(lengths) == 12 and max(lengths) < 2 * min(lengths):
        assert len(pieces) == 2 and max(map(len, documents)) <= 9


def write_shards(folder, *lengths: int) -> TokenShards:
    """Write documents that end with token 0 and count on from 1 otherwise, across files."""
    first = 1
    with ShardWriter(folder, "0" * 64, 1000, np.ones(1000), tokens_per_file=16) as writer:
        for length in lengths:
            writer.add("train", [*range(first, first + length - 1), 0])
            first += length - 1
    return TokenShards.open(folder, "train")


def test_pieces_by_hand():
    # Documents of 4, 1, 10 and 3 tokens; a piece has at most 4 inputs.
    starts = np.array([0, 4, 5, 15])
    assert pieces_of_documents(starts, 18, 4) == [
        (0, 3),  # no token before the first document
        (3, 1),  # a document of one token: predicted from the end-of-text token before it
        (4, 4),  # 4 -> 5, ..., 7 -> 8
        (8, 4),
        (12, 2),  # the rest of the document of 10
        (14, 3),
    ]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 12))
def test_every_token_but_the_first_is_predicted_once(lengths, context_length):
    starts = np.cumsum([0, *lengths[:-1]])
    pieces = pieces_of_documents(starts, sum(lengths), context_length)
    predicted = [start + i + 1 for start, count in pieces for i in range(count)]
    assert predicted == list(range(1, sum(lengths)))
    assert all(1 <= count <= context_length for _, count in pieces)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for start, count in pieces:  # all targets of a piece are of one document
        assert len({owner[start + i + 1] for i in range(count)}) == 1


def test_an_epoch_of_documents(tmp_path):
    shards = write_shards(tmp_path / "s", 4, 9, 3, 20, 2, 6)
    batches = DocumentBatches(shards, 8, 2, seed=0)
    assert 0.8 < batches.efficiency <= 1
    steps = -(-len(batches.rows) // 2)
    batch = batches.batch_at(0)
    assert batch["token_ids"].dtype == torch.int64 and max(batch["cu_seqlens"].diff()) <= 8
    fresh = DocumentBatches(shards, 8, 2, seed=0).batch_at(steps - 1)
    assert torch.equal(fresh["targets"], batches.batch_at(steps - 1)["targets"])
    one = DocumentBatches(shards, 8, len(batches.rows), seed=0).batch_at(0)
    tokens = shards.read(1, shards.num_tokens - 1).tolist()
    assert sorted(one["targets"][0].tolist()) == sorted(tokens)
    orders = {
        tuple(DocumentBatches(shards, 8, 9, seed=s).batch_at(0)["targets"][0][:9].tolist())
        for s in range(5)
    }
    assert len(orders) > 1, "the seed decides the order"


def test_shards_with_nothing_to_predict_are_refused(tmp_path):
    with pytest.raises(UserError, match="1 tokens of train leave nothing to predict"):
        DocumentBatches(write_shards(tmp_path / "s", 1), 8, 1, 0)


class IgnoresBorders(TransformerLM):
    def forward(self, token_ids, cache=None, cu_seqlens=None):
        return super().forward(token_ids, cache)


class KnowsNoBorders(TransformerLM):
    def forward(self, token_ids, cache=None):
        return super().forward(token_ids, cache)


def test_a_model_that_mixes_documents_is_refused():
    model = make_model().train()
    before = torch.get_rng_state()
    check_documents_stay_apart(model)
    assert model.training and torch.equal(torch.get_rng_state(), before)
    for kind in (IgnoresBorders, KnowsNoBorders):
        with pytest.raises(UserError, match="does not keep packed documents apart"):
            check_documents_stay_apart(kind(model.config))
