"""Mixed shards hold the planned documents of each source, and the same validation split."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_pipeline.shard_writing import ShardSettings, split_of, write_token_shards
from data_pipeline.sharding.mixed_shards import MixingSettings, planned_counts, source_weights
from lm_core.formats.documents import Document, document_id, write_documents
from lm_core.formats.token_shards import TokenShards
from lm_core.special_tokens import END_OF_TEXT

NUMBERS = {"web": 60, "books": 12, "code": 6}
SHARE = 0.1


class ByteTokenizer:
    """Ids 0 to 255 are bytes; 256 is the end of a text."""

    special_tokens = {END_OF_TEXT: 256}  # noqa: RUF012
    vocab_size = 257

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def byte_lengths(self) -> np.ndarray:
        return np.array([1] * 256 + [0])


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "documents"
    texts = [
        (source, f"{source} {n:03}") for source, number in NUMBERS.items() for n in range(number)
    ]
    found = [Document(document_id(text), text, source, "") for source, text in texts]
    write_documents(folder, found, [{"documents_out": len(found)}])
    return folder


def written(documents: Path, out: Path, **settings) -> tuple[dict, dict[str, list[str]]]:
    """Return the summary, and the texts of each split."""
    made = ShardSettings(validation_share=SHARE, **settings)
    summary = write_token_shards(documents, ByteTokenizer(), "x", out, made)
    texts = {}
    for split in ("train", "validation"):
        shards = TokenShards.open(out, split)
        ids = bytes(shards.read(0, shards.num_tokens).astype(np.uint8))  # 256, the end, becomes 0
        texts[split] = ids.decode().split("\0")[:-1]
        starts = shards.document_starts
        assert shards.read(int(starts[-1]), 1)[0] == ord(texts[split][-1][0]), "borders are kept"
        assert len(starts) == len(texts[split])
    return summary, texts


def test_a_mix_repeats_sources_by_their_weights_and_never_the_validation_split(documents, tmp_path):
    plain_summary, plain = written(documents, tmp_path / "plain")
    mixing = MixingSettings(weights={"web": 2, "books": 1, "code": 0}, epochs=1.5)
    summary, mixed = written(documents, tmp_path / "mixed", mixing=mixing)
    assert mixed["validation"] == plain["validation"], "neither mixed nor repeated"
    assert not [text for text in mixed["train"] if text.startswith("code")], "weight 0"
    of_source = {
        source: [text for text in plain["train"] if text.startswith(source)] for source in NUMBERS
    }
    tokens = {source: sum(len(t) + 1 for t in texts) for source, texts in of_source.items()}
    for source, share in (("web", 2 / 3), ("books", 1 / 3)):
        budget = 1.5 * (tokens["web"] + tokens["books"]) * share
        length = tokens[source] / len(of_source[source])
        assert abs(summary["sources"][source]["tokens"] - budget) <= length / 2 + 1
        times = Counter(text for text in mixed["train"] if text.startswith(source))
        assert set(times) == set(of_source[source]), "every document occurs"
        assert max(times.values()) - min(times.values()) <= 1, "epochs are finished first"
        epochs = sum(times.values()) / len(of_source[source])
        assert summary["sources"][source]["epochs"] == round(epochs, 3)
    assert summary["sources"]["code"] == {"documents": 0, "tokens": 0, "epochs": 0}
    assert plain_summary["sources"]["code"]["epochs"] == 1
    assert plain_summary["bytes_per_token"] == summary["bytes_per_token"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed", "plain"], "nothing is left"


def test_without_mixing_documents_keep_their_order(documents, tmp_path):
    _, texts = written(documents, tmp_path / "plain")
    everything = [f"{source} {n:03}" for source, number in NUMBERS.items() for n in range(number)]
    train = [text for text in everything if split_of(document_id(text), SHARE) == "train"]
    assert texts["train"] == train


def test_one_epoch_of_the_natural_weights_is_every_document_once_in_another_order(
    documents, tmp_path
):
    _, plain = written(documents, tmp_path / "plain")
    _, mixed = written(documents, tmp_path / "mixed", mixing=MixingSettings())
    assert sorted(mixed["train"]) == sorted(plain["train"]) and mixed != plain
    _, again = written(documents, tmp_path / "again", mixing=MixingSettings())
    _, other = written(documents, tmp_path / "other", mixing=MixingSettings(seed=1))
    assert again == mixed and other["train"] != mixed["train"]


def test_patterns_share_a_weight_by_tokens_and_epochs_are_limited():
    tokens = {"crawl-1": 300, "crawl-2": 100, "books": 100}
    settings = MixingSettings(weights={"crawl-*": 1, "books": 3}, epochs=2, max_epochs=3)
    assert source_weights(tokens, settings) == {"crawl-1": 0.75, "crawl-2": 0.25, "books": 3}
    documents = {"crawl-1": 30, "crawl-2": 10, "books": 10}
    # Of 1,000 tokens, 750 would be books; they have 300, and the crawls share the other 700.
    assert planned_counts(documents, tokens, settings) == {
        "crawl-1": 53,  # of 525 tokens: 52.5, halves up
        "crawl-2": 18,  # of 175
        "books": 30,
    }
    assert source_weights(tokens, MixingSettings(temperature=float("inf")))["books"] == (
        pytest.approx(1 / 3)
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1}, "source 'b' has no weight; .* 0 to leave it out .sources: a, b"),
        ({"*": 1, "a*": 1}, "source 'a' matches \\* and a\\*"),
        ({"a": 1, "b": 1, "c": 1}, "no source is named 'c'; there are a, b"),
        ({"a": -1, "b": 1}, "a = -1.0; expected a number from 0"),
        ({"a": 0, "b": 0}, "all are 0"),
    ],
)
def test_weights_that_do_not_fit_the_sources_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        source_weights({"a": 1, "b": 1}, MixingSettings(weights=weights))


def test_a_name_wins_over_a_pattern():
    settings = MixingSettings(weights={"*": 1, "a": 5})
    assert source_weights({"a": 1, "b": 1}, settings) == {"a": 5, "b": 1}


def test_wrong_weights_leave_no_shards(documents, tmp_path):
    with pytest.raises(ValueError, match="no source is named 'wiki'"):
        mixing = MixingSettings(weights={"*": 1, "wiki": 1})
        written(documents, tmp_path / "shards", mixing=mixing)
    assert list(tmp_path.iterdir()) == []


def test_parts_of_documents_cannot_be_mixed():
    for wrong in ({"held_out": "end"}, {"training_share": 0.5}):
        with pytest.raises(ValidationError, match="mixing repeats whole documents"):
            ShardSettings(mixing=MixingSettings(), **wrong)
