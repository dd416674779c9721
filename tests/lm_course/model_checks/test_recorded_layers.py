"""Hooks: tensors by position or by keyword, tuples, replaced values, and the first of two calls."""

import torch
from torch import nn

from lm_course.model_checks.recorded_layers import INPUT, OUTPUT, record


class Twice(nn.Module):
    """Calls one layer with a position, then by keyword; the layer returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Scaled()

    def forward(self, ids, **_):
        first, extra = self.layer(ids, ids.float())
        second, _ = self.layer(ids, x=first)
        return second + extra


class Scaled(nn.Module):
    def forward(self, ids, x):
        return 2 * x, 100.0


IDS = torch.tensor([[1, 2]])


def test_first_call_is_recorded():
    model = Twice()
    found = record(model, ["", "layer"], IDS, use_cache=False)
    assert found.called == {"", "layer"}
    assert list(found.values) == [(INPUT, "layer"), (OUTPUT, "layer"), (OUTPUT, "")]
    assert found.values[INPUT, "layer"].tolist() == [[1.0, 2.0]]
    assert found.values[OUTPUT, "layer"].tolist() == [[2.0, 4.0]]
    assert found.values[OUTPUT, ""].tolist() == [[104.0, 108.0]]
    assert not model.layer._forward_hooks and not model.layer._forward_pre_hooks


def test_replaced_values():
    def instead(event, value):
        return value + (1.0 if event[0] == INPUT else 10.0)

    found = record(Twice(), ["", "layer"], IDS, instead)
    # first: 2 (1 + 1) + 10 = 14; second: 2 (14 + 1) + 10 = 40, and 100 more
    assert found.values[OUTPUT, ""][0, 0] == 140.0
    assert found.values[OUTPUT, "layer"].tolist() == [[4.0, 6.0]]  # as the layer returned it
    assert found.values[INPUT, "layer"].tolist() == [[1.0, 2.0]]
