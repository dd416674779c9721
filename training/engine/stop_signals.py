"""SIGTERM and Ctrl-C during training: the update ends, a checkpoint is saved, then the run stops.

What this leaves out: Windows, which has no SIGTERM to catch, and threads other than the main one,
in which Python allows no handlers.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedBySignal(KeyboardInterrupt):
    """Training has saved a checkpoint and stops, because of a signal.

    It is a KeyboardInterrupt, which nothing takes for a failed step.

    Attributes:
        signal_name: such as "SIGTERM"; on a rank, maybe that of another rank.
        step: of the checkpoint.
    """

    def __init__(self, signal_name: str, step: int) -> None:
        super().__init__(f"stopped by {signal_name} after step {step}, which is saved")
        self.signal_name = signal_name
        self.step = step


class StopSignals:
    """A context in which the two signals set `seen` and nothing else.

    Args:
        second_acts: whether a second Ctrl-C has its usual effect at once, without a checkpoint.
    """

    def __init__(self, second_acts: bool) -> None:
        self.second_acts = second_acts
        self.seen: signal.Signals | None = None
        self.earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self.earlier = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.seen is not None and self.second_acts and number == signal.SIGINT:
            self._restore()
            signal.raise_signal(number)
        self.seen = signal.Signals(number)

    def _restore(self) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)
        self.earlier = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def stop(self, step: int) -> None:
        """Raise StoppedBySignal, after the earlier handler, which may raise an error of its own."""
        number = self.seen or signal.SIGTERM
        handler = self.earlier.get(number)
        self._restore()
        stopped = StoppedBySignal(number.name, step)
        if callable(handler):
            try:
                handler(number, None)
            except KeyboardInterrupt:
                raise stopped from None
        raise stopped
