"""The reference, in a process of its own, which answers calls with drawn inputs.

The code under test never finds the reference in its own process: there, the reference's modules are
replaced by the learner's (`lm_core.stand_ins`). The process is a fork made before any code under
test is imported. It keeps its answers: every planted mistake of a task asks for the same ones.
"""

import os
import pickle
import signal
import socket
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.drawn_inputs.input_spaces import Raised, Returned, Space, outcome_of_reference
from lm_course.grading.forked_check import fork

LARGEST_MEMORY = 1 << 28  # bytes of answers that are kept


class ReferenceProcess:
    """A process that imports the reference and answers for it.

    Args:
        spaces: those that it answers for; they are not sent to it.
    """

    def __init__(self, spaces: Iterable[Space]) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="reference-")
        self.address = str(Path(self.folder.name) / "socket")
        self.owner = os.getpid()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        listener.listen()
        ends_with_us, self.alive = os.pipe()  # closed by the system when this process ends
        self.child = fork()
        if self.child == 0:
            os.close(self.alive)
            _serve(listener, ends_with_us, spaces)
        os.close(ends_with_us)
        listener.close()

    def connect(self) -> Connection:
        """Return a connection, for one check."""
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.connect(self.address)
            return Connection(connected.detach())
        finally:
            connected.close()

    def close(self) -> None:
        """End the process; only in the process that began it."""
        if os.getpid() != self.owner:
            return
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
        os.close(self.alive)
        self.folder.cleanup()


def ask(connection: Connection, space: Space, inputs: Mapping[str, Any]) -> Returned | Raised:
    """Return what the reference does with these inputs.

    Raises RuntimeError if the reference fails: its own error is then a mistake of the suite.
    """
    connection.send_bytes(pickle.dumps((space.name, dict(inputs)), pickle.HIGHEST_PROTOCOL))
    answer = pickle.loads(connection.recv_bytes())
    if isinstance(answer, str):
        raise RuntimeError(f"the reference failed: {answer}")
    return answer


def _serve(listener: socket.socket, parent: int, spaces: Iterable[Space]) -> NoReturn:
    """Answer one connection after another, until the parent ends."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends, and then this
        os.environ.pop(STAND_INS_VARIABLE, None)
        by_name = {space.name: space for space in spaces}
        answers: dict[bytes, bytes] = {}
        kept = 0
        while parent not in wait([listener, parent]):
            accepted, _ = listener.accept()
            with suppress(EOFError, ConnectionError), Connection(accepted.detach()) as connection:
                while True:
                    asked = connection.recv_bytes()
                    if asked not in answers:
                        if kept > LARGEST_MEMORY:
                            answers, kept = {}, 0
                        answers[asked] = _answer(by_name, asked)
                        kept += len(asked) + len(answers[asked])
                    connection.send_bytes(answers[asked])
    finally:
        os._exit(0)


def _answer(by_name: Mapping[str, Space], asked: bytes) -> bytes:
    name, inputs = pickle.loads(asked)
    answer: Returned | Raised | str
    try:
        answer = outcome_of_reference(by_name[name], inputs)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
