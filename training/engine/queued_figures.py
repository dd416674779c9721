"""Numbers copied from the device to this process, read once they have arrived.

A GPU works through a queue that this process fills. `.item()` waits until the queue is empty, and
then the GPU waits for the next step to be queued: at every step, each is idle in turn. Here the
copy is queued as well, and reading the numbers one step later waits for that copy and for nothing
queued after it. A CPU has no queue, so there is no wait.
"""

import torch
from torch import Tensor


class QueuedFigures:
    """Scalar tensors on one device; `read` returns them as numbers."""

    def __init__(self, *figures: Tensor) -> None:
        together = torch.stack([figure.detach() for figure in figures])
        self._figures = together.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if together.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(together.device))

    def read(self) -> list[float]:
        """Return the numbers, after waiting for the work queued before them."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._figures.tolist()
