"""Every value of every setting that names a variant can be built, differs from all others, and is
listed in the handout of a2.
"""

import itertools
import re
import typing
from pathlib import Path

import pytest
import torch

from transformer_lm import language_model, model_cost
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig, ModelShape, RopeScaling
from transformer_lm.model_cost import count_parameters
from transformer_lm.rotary_embedding import rotary_frequencies

HANDOUT = Path(__file__).parents[2] / "assignments" / "a2" / "README.md"
SHAPE = {
    "vocab_size": 61, "context_length": 24, "d_model": 32, "num_layers": 2, "num_heads": 4,
    "num_kv_heads": 2, "d_ff": 48,
}  # fmt: skip
TABLES = {
    "norm": [language_model.NORMS],
    "mlp": [language_model.FEED_FORWARDS, model_cost.INWARD_MATRICES],
}


def values(settings: type, name: str) -> tuple[str, ...]:
    """Return the allowed names of a setting; empty if it is not a choice among names."""
    annotation = settings.model_fields[name].annotation
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


CHOICES = {name: found for name in ModelShape.model_fields if (found := values(ModelShape, name))}


def logits(changes: dict[str, str]) -> torch.Tensor:
    """Return the logits of a model whose parameters are drawn in the order of their names."""
    config = ModelConfig(**(SHAPE | changes))
    model = TransformerLM(config, attention_backend="eager")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
        assert count_parameters(config) == sum(p.numel() for p in model.parameters())
        return model(torch.arange(24)[None])


def test_the_choices_are_these() -> None:
    assert set(CHOICES) == {"norm", "norm_position", "position", "mlp"}
    assert set(TABLES) <= set(CHOICES)


@pytest.mark.parametrize("name", CHOICES)
def test_each_value_computes_something_of_its_own(name: str) -> None:
    results = {value: logits({name: value}) for value in CHOICES[name]}
    for one, other in itertools.combinations(results, 2):
        difference = (results[one] - results[other]).abs().max()
        assert difference > 0.01, f"{name} = {one} computes the same as {other}"


def test_each_way_of_rescaling_is_one_of_its_own() -> None:
    given = {"factor": 4.0, "original_context_length": 16}
    kinds = values(RopeScaling, "kind")
    found = [rotary_frequencies(64, 1e4, RopeScaling(kind=kind, **given)) for kind in kinds]
    assert len(kinds) == 3
    for one, other in itertools.combinations([rotary_frequencies(64, 1e4, None), *found], 2):
        assert not torch.allclose(one, other)


@pytest.mark.parametrize(("name", "table"), [(n, t) for n, ts in TABLES.items() for t in ts])
def test_a_table_has_a_row_for_every_value_and_no_other(name: str, table: dict) -> None:
    assert set(table) == set(CHOICES[name]), f"{name}: give every value of ModelShape a row"


@pytest.mark.parametrize("name", CHOICES)
def test_a_value_that_nobody_wrote_is_refused(name: str) -> None:
    config = ModelConfig(**SHAPE).model_copy(update={name: "new"})
    with pytest.raises((KeyError, AssertionError), match="new"):
        TransformerLM(config)(torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("name", CHOICES)
def test_the_handout_lists_the_values(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| ([^|]+) \|", HANDOUT.read_text(encoding="utf-8"), re.M)
    assert row is not None, f"the handout's table of settings has no row {name}"
    assert tuple(re.findall(r'`"(\w+)"`', row[1])) == CHOICES[name]
