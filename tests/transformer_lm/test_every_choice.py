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
from transformer_lm.initialization import role_of
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig, ModelShape, RopeScaling
from transformer_lm.model_cost import count_parameters
from transformer_lm.rotary_embedding import rotary_frequencies

HANDOUT = Path(__file__).parents[2] / "assignments" / "a2" / "README.md"
SHAPE = {
    "vocab_size": 61, "context_length": 24, "d_model": 32, "num_layers": 2, "num_heads": 4,
    "num_kv_heads": 2, "d_ff": 48,
}  # fmt: skip
# table: the setting whose values are its rows. The name begins with the file in transformer_lm/.
TABLES = {
    "language_model.NORMS": ("norm", language_model.NORMS),
    "language_model.FEED_FORWARDS": ("mlp", language_model.FEED_FORWARDS),
    "model_cost.INWARD_MATRICES": ("mlp", model_cost.INWARD_MATRICES),
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
    assert {setting for setting, _ in TABLES.values()} <= set(CHOICES)


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


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_a_row_for_every_value_and_no_other(name: str) -> None:
    setting, table = TABLES[name]
    needed = f"{name}: one row for each value of {setting}"
    missing = ", ".join(value for value in CHOICES[setting] if value not in table)
    assert not missing, f"{needed} (missing: {missing})"
    unknown = ", ".join(row for row in table if row not in CHOICES[setting])
    assert not unknown, f"{needed} (not in ModelShape.{setting}: {unknown})"


@pytest.mark.parametrize("mlp", CHOICES["mlp"])
def test_a_feed_forward_layer_has_biases_and_ends_its_branch(mlp: str) -> None:
    """All its matrices have a bias if `biases` is set, and `role_of` knows the last one."""
    config = ModelConfig(**(SHAPE | {"mlp": mlp, "biases": True}))
    model = TransformerLM(config)
    built = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(config) == built, f"{mlp} does not have the parameters that are counted"
    ends = (config.d_model, config.d_ff)
    for name, parameter in model.blocks.named_parameters(prefix="blocks"):
        if ".feed_forward." in name and parameter.ndim == 2:
            expected = "branch end" if parameter.shape == ends else "linear"
            assert role_of(name, config) == expected, f"initialization.py: role_of({name!r})"


@pytest.mark.parametrize("name", CHOICES)
def test_a_value_that_nobody_wrote_is_refused(name: str) -> None:
    config = ModelConfig(**SHAPE).model_copy(update={name: "new"})
    with pytest.raises(AssertionError, match="new"):
        TransformerLM(config)(torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_row_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting, table = TABLES[name]
    value = CHOICES[setting][0]
    monkeypatch.delitem(table, value)
    with pytest.raises(AssertionError, match=rf"^{name} has no row '{value}'$"):
        logits({setting: value})


@pytest.mark.parametrize("name", CHOICES)
def test_the_handout_lists_the_values(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| ([^|]+) \|", HANDOUT.read_text(encoding="utf-8"), re.M)
    assert row is not None, f"the handout's table of settings has no row {name}"
    listed = tuple(re.findall(r'`"(\w+)"`', row[1]))
    assert listed == CHOICES[name], f"assignments/a2/README.md: the values of {name}, in this order"
