"""The source of randomness: seeds derived from names, and the generator state in a checkpoint.

A seed derived from (run seed, "pretrain", epoch) is the same on every machine and needs no state: a
run that resumes at step 700 asks for the seed of step 700. The generators' state is also saved, for
a learner's module that draws from torch's global generator (dropout).
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def derived_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for one purpose: SHA-256 of the run's seed and the purpose's names."""
    text = "\0".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed torch's global generators (CPU and every GPU)."""
    import torch

    torch.manual_seed(seed)


def capture_random_state() -> dict[str, "Tensor"]:
    """Return the state of torch's global generators, as byte tensors for a checkpoint."""
    import torch

    state = {"cpu": torch.get_rng_state()}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        state[f"cuda.{index}"] = torch.cuda.get_rng_state(index)
    return state


def restore_random_state(state: dict[str, "Tensor"]) -> None:
    """Undo every draw since `capture_random_state`; the state of a missing GPU is ignored."""
    import torch

    torch.set_rng_state(state["cpu"])
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda.{index}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{index}"], index)
