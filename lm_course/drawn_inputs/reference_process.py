"""The reference, in a process of its own: it draws the inputs of every space, and answers them.

The code under test never finds the reference in its own process: there, the reference's modules are
replaced by the learner's (`lm_core.stand_ins`). The process is a fork made before any code under
test is imported. It draws while other checks run, so a check only has to call the learner's code;
and every planted mistake of a task is graded on the same drawn inputs.
"""

import os
import pickle
import signal
import socket
import tempfile
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.drawn_inputs.input_spaces import Raised, Returned, Space, outcome_of_reference
from lm_course.grading.forked_check import fork

if TYPE_CHECKING:
    import pytest


def spaces_of(items: "Sequence[pytest.Item]") -> list[Space]:
    """Return the spaces of the checks that draw inputs, each once."""
    calls = [item.callspec for item in items if hasattr(item, "callspec")]
    spaces = [call.params["space"] for call in calls if "space" in call.params]
    return list({space.name: space for space in spaces}.values())


class Drawn(NamedTuple):
    """Inputs of a space and the reference's outcome, both pickled: each use gets its own copy."""

    inputs: bytes
    outcome: bytes


class ReferenceProcess:
    """A process that imports the reference and answers for it.

    Args:
        spaces: those that it draws from, in the order in which they will be needed.
        times: how many times as many inputs as usual it draws.
        unwritten: tasks whose functions are still to be written. Nothing is drawn for them ahead
            of time, because one input is enough to see that.
    """

    def __init__(
        self, spaces: Iterable[Space], times: int = 1, unwritten: Collection[str] = ()
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="reference-")
        self.address = str(Path(self.folder.name) / "socket")
        self.owner = os.getpid()
        self.times = times
        self.unwritten = unwritten
        self.received: dict[str, list[Drawn]] = {}
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        listener.listen()
        ends_with_us, self.alive = os.pipe()  # closed by the system when this process ends
        self.child = fork()
        if self.child == 0:
            os.close(self.alive)
            _serve(listener, ends_with_us, list(spaces), times, unwritten)
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

    def drawn(self, space: Space) -> list[Drawn]:
        """Return the inputs of this space, the examples first."""
        if space.name not in self.received:
            self.received[space.name] = self._ask_for_inputs(space, all_of_them=True)
        return self.received[space.name]

    def first_drawn(self, space: Space) -> list[Drawn]:
        """Return the examples and one more input."""
        return self._ask_for_inputs(space, all_of_them=False)

    def _ask_for_inputs(self, space: Space, all_of_them: bool) -> list[Drawn]:
        with self.connect() as connection:
            connection.send((space.name, all_of_them))
            return [Drawn(*pair) for pair in connection.recv()]

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
    connection.send((space.name, dict(inputs)))
    return answer_in(connection.recv())


def answer_in(sent: bytes) -> Returned | Raised:
    """Return the outcome that the reference's process pickled; raise RuntimeError if it failed."""
    answer = pickle.loads(sent)
    if isinstance(answer, str):
        raise RuntimeError(f"the reference failed: {answer}")
    return answer


def _serve(
    listener: socket.socket,
    parent: int,
    spaces: Sequence[Space],
    times: int,
    unwritten: Collection[str],
) -> NoReturn:
    """Answer one connection after another, until the parent ends; draw in the meantime."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends, and then this
        os.environ.pop(STAND_INS_VARIABLE, None)
        by_name = {space.name: space for space in spaces}
        waiting = [space.name for space in spaces if space.task not in unwritten]
        drawn: dict[str, list[Drawn]] = {}

        def draw(name: str) -> list[Drawn]:
            if name not in drawn:
                waiting[:] = [other for other in waiting if other != name]
                drawn[name] = _drawn(by_name[name], times)
            return drawn[name]

        while parent not in (ready := wait([listener, parent], 0 if waiting else None)):
            if not ready:
                draw(waiting[0])
                continue
            accepted, _ = listener.accept()
            with suppress(EOFError, ConnectionError), Connection(accepted.detach()) as connection:
                while True:
                    name, asked = connection.recv()
                    space = by_name[name]
                    if isinstance(asked, dict):
                        connection.send(_answer(space, asked))
                    else:
                        connection.send(draw(name) if asked else _drawn(space, 0))
    except BaseException:
        traceback.print_exc()  # a mistake of the suite
    finally:
        os._exit(0)


def _drawn(space: Space, times: int) -> list[Drawn]:
    from lm_course.drawn_inputs.drawing import draw_inputs  # loads Hypothesis

    found: dict[bytes, Drawn] = {}

    def collect(inputs: Mapping[str, Any]) -> None:
        pickled = pickle.dumps(inputs, pickle.HIGHEST_PROTOCOL)  # before the reference changes it
        if pickled not in found:
            found[pickled] = Drawn(pickled, _answer(space, inputs))

    for inputs in space.examples:
        collect(pickle.loads(pickle.dumps(inputs)))
    draw_inputs(space, times, collect)
    return list(found.values())


def _answer(space: Space, inputs: Mapping[str, Any]) -> bytes:
    answer: Returned | Raised | str
    try:
        answer = outcome_of_reference(space, inputs)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
