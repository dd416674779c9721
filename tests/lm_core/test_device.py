"""The dtype is chosen by timing, in favour of float32 if the two are close."""

import time

import pytest
import torch

from lm_core.device import faster_dtype, pick_device


@pytest.mark.parametrize(
    ("float32_ms", "bfloat16_ms", "expected"),
    [(30, 5, torch.bfloat16), (5, 30, torch.float32), (10, 10, torch.float32)],
)
def test_the_faster_one_is_taken(float32_ms: int, bfloat16_ms: int, expected: torch.dtype) -> None:
    milliseconds = {torch.float32: float32_ms, torch.bfloat16: bfloat16_ms}
    dtype, advantage = faster_dtype(
        lambda dtype: time.sleep(milliseconds[dtype] / 1000), torch.device("cpu"), repeats=3
    )
    assert dtype == expected
    if float32_ms != bfloat16_ms:
        assert (advantage > 1) == (float32_ms > bfloat16_ms)


@pytest.mark.parametrize(("bfloat16_ms", "expected"), [(40, 2), (5, 6)])
def test_a_processor_without_bfloat16_waits_for_it_no_longer_than_needed(
    bfloat16_ms: int, expected: int
) -> None:
    milliseconds, asked = {torch.float32: 5, torch.bfloat16: bfloat16_ms}, []

    def run_once(dtype: torch.dtype) -> None:
        asked.append(dtype)
        time.sleep(milliseconds[dtype] / 1000)

    faster_dtype(run_once, torch.device("cpu"), repeats=5)
    assert asked.count(torch.bfloat16) == expected, "one to warm up and one, or all six"


def test_devices_that_do_not_exist() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'gpu' is unknown; expected auto, cpu, cuda"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="does not exist on this machine; use auto or cpu"):
            pick_device("cuda")
