"""Numbers on their way from the device to this process, read when they have come.

A GPU works through a queue that this process fills. `.item()` waits until the queue is empty, and
then the GPU waits for the next step to be put in: at every step, both stand still in turn. Here the
copy is put into the queue as well, and who reads the numbers a step later waits for that copy and
for nothing behind it. On a CPU there is no queue, and no waiting.
"""

import torch
from torch import Tensor


class QueuedFigures:
    """Some tensors without axes, of one device; `read` gives them as numbers."""

    def __init__(self, *figures: Tensor) -> None:
        together = torch.stack([figure.detach() for figure in figures])
        self._figures = together.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if together.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(together.device))

    def read(self) -> list[float]:
        """The numbers; waits for what was queued before them."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._figures.tolist()
