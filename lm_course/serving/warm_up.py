"""The wait before the first answer: an engine compiles its kernels, and the user is told."""

import sys

from inference.engine.batch_engine import BatchEngine
from inference.engine.compiled_forward import CompiledForwardPass


def warm_up(engine: BatchEngine, name: str) -> None:
    """Let an engine compile before its first request, and say so on standard error."""
    if isinstance(engine.forward, CompiledForwardPass):
        ready = f"{name}: getting ready; the first start compiles for up to a minute"
        print(ready, file=sys.stderr, flush=True)
    engine.warm_up()
