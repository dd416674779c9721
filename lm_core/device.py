"""The choice of a device, and of the faster dtype on it. The dtype is measured, because a
processor's name does not tell.

bfloat16 is several times faster than float32 on processors with matrix instructions for it, and
several times slower on those that emulate it. So the training step, which runs thousands of times,
is first timed in both.
"""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lm_core.user_error import UserError

if TYPE_CHECKING:
    import torch

REQUIRED_ADVANTAGE = 1.15  # bfloat16 must be faster by this factor to make up for its rounding
HOPELESS = 3.0  # times as slow as float32: a processor without the instructions, measured once


def pick_device(name: str = "auto") -> "torch.device":
    """Return the device that `name` asks for; "auto" is CUDA if available, else Apple's GPU, else
    the CPU.

    Raises:
        ValueError: `name` is unknown, or this machine does not have the device.
    """
    import torch

    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    kind = name.partition(":")[0]
    if kind not in present:
        raise UserError(f"device {name!r} is unknown; expected auto, cpu, cuda, cuda:N or mps")
    if not present[kind]:
        raise UserError(f"device {name!r} does not exist on this machine; use auto or cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(
            f"device {name!r} is unknown; expected auto, cpu, cuda, cuda:N or mps"
        ) from None


def synchronize(device: "torch.device") -> None:
    """Wait until the device has finished its work, so that a clock can be read correctly."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def faster_dtype(
    run_once: Callable[["torch.dtype"], object], device: "torch.device", repeats: int = 5
) -> tuple["torch.dtype", float]:
    """Time `run_once(dtype)` alternately in float32 and bfloat16, and choose the dtype with the
    lower median.

    Args:
        run_once: runs the work once with this dtype (float32, or bfloat16 under autocast).
        device: the device that it runs on.
        repeats: timed runs of each, after one warm-up; only one if bfloat16 is hopelessly slow.

    Returns:
        The dtype to use, and how many times faster bfloat16 was than float32.
    """
    import torch

    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for repeat in range(repeats + 1):
        for dtype, times in seconds.items():
            start = time.perf_counter()
            run_once(dtype)
            synchronize(device)
            if repeat > 0:
                times.append(time.perf_counter() - start)
        if repeat > 0 and seconds[torch.bfloat16][0] > HOPELESS * seconds[torch.float32][0]:
            break
    medians = {dtype: statistics.median(times) for dtype, times in seconds.items()}
    advantage = medians[torch.float32] / medians[torch.bfloat16]
    return (torch.bfloat16 if advantage >= REQUIRED_ADVANTAGE else torch.float32), advantage
