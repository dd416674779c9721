"""Functions of one item that hang, die or need too much memory in a worker."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def start_poisoned() -> Callable[[object], object]:
    """Return a function that does what the item says, and returns it in capitals."""
    return run_item


def run_item(item: object) -> object:
    word = str(item)
    if word == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hangs":  # without letting go of the GIL, as a search in C code
        ctypes.PyDLL(None).sleep(600)
    if word == "grows":
        held = []
        while True:
            held.append(bytearray(50_000_000))
    if word == "crashes":
        ctypes.string_at(0)
    if word == "fails":
        raise LookupError("the function's own error")
    if word.startswith("once "):  # dies the first time, and leaves a file that says so
        marker = Path(word.removeprefix("once "))
        if not marker.exists():
            marker.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
    if word == "naps":
        time.sleep(0.05)
    return word.upper()


def start_dead() -> Callable[[object], object]:
    os._exit(3)


def lost(item: object, reason: str) -> object:
    return (item, reason)
