"""Contracts of objects with new weights: they are independent, and their weights are drawn from
PyTorch's global generator.

What this leaves out: which distribution the weights have, which is a check of its own.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from lm_course.drawn_inputs.input_spaces import Space, built
from lm_course.grading.check_outcome import GradedFailure


def check_new_objects(space: Space, module: ModuleType, inputs: Mapping[str, Any]) -> None:
    """Construct objects with these inputs, and fail with the contract that is broken."""
    import torch

    assert space.makes is not None, f"{space.function} is not a class"
    inputs = built(inputs)
    name = space.function

    def new(seed: int | None) -> dict[str, Any]:
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every kind of device
        made.append(space.makes(module, **inputs))  # kept: memory must not be used twice
        return {key: x.detach() for key, x in made[-1].named_parameters()}

    made: list[Any] = []
    with torch.random.fork_rng(devices=[]):
        first, second, after = new(1), new(None), torch.get_rng_state()
        again = new(1)
        new(2), new(None)
        is_set = bool((torch.get_rng_state() == after).all())
    for key, x in first.items():
        if x.numel() and x.untyped_storage().data_ptr() == second[key].untyped_storage().data_ptr():
            raise GradedFailure(f"two new objects share a parameter: {name}, {key}")
        if not torch.equal(x, again[key]):
            raise GradedFailure(
                f"a new {name} is another after the same torch.manual_seed ({key}): draw weights "
                "from PyTorch's global generator"
            )
    drawn = [key for key, x in first.items() if x.ndim > 1 and x.numel() > 1]
    for key in drawn:
        if torch.equal(first[key], second[key]) and len(first[key].unique()) > 1:
            raise GradedFailure(
                f"two {name}, made one after the other, start with the same {key}: draw new "
                "weights from PyTorch's global generator, and do not seed it"
            )
    if drawn and is_set:
        raise GradedFailure(
            f"a new {name} sets PyTorch's global random generator: the caller seeds it, and a "
            "layer only draws from it"
        )
