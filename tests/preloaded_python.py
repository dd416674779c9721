"""Programs that run in forks of one Python process, which has imported the large libraries already.

Importing PyTorch takes seconds, and the tests start `lm` and the graded suites more than a hundred
times. The modules of this project are not imported beforehand: every program imports its own.

What this leaves out: a program's whole input is given before it starts. What Python reads from the
environment when it starts, other than PYTHONPATH, stays as it was for the tests. An exception that
nobody catches ends with status 1, KeyboardInterrupt too. Where that matters, a test starts Python
itself.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TextIO

# Besides those that are loaded before planted mistakes are graded.
LIBRARIES = ("typer", "rich.console", "jinja2", "pytest")
REQUEST = b"."  # with it come the files of a program


class Program:
    """A running program, as subprocess.Popen has it: in a session of its own, with its output in
    pipes.

    Args:
        arguments: what would follow `python`: `-m module`, `-c code` or a file, and the program's
            arguments.
        cwd: its folder.
        env: its environment.
        given: its standard input, through a pipe.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        given: bytes | str = b"",
    ) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        self.stdout, output = _pipe()
        self.stderr, errors = _pipe()
        self._status, told = os.pipe()
        reading, writing = os.pipe()
        with tempfile.TemporaryFile() as request:
            request.write(json.dumps([self.args, str(cwd), dict(env)]).encode())
            request.seek(0)
            theirs = [reading, output, errors, told]
            socket.send_fds(_server(), [REQUEST], [*theirs, request.fileno()])
            for file in theirs:
                os.close(file)
        text = given.encode() if isinstance(given, str) else given
        threading.Thread(target=_write, args=(writing, text), daemon=True).start()
        self.pid = int(self._told())

    def _told(self) -> str:
        """The next number from the process that waits for the program."""
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(self._status, 1)
            assert more, f"no program: {self.args}"
            line += more
        return line.decode()

    def poll(self) -> int | None:
        """The exit status if the program has ended; a negative number of a signal that ended it."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._told())
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the program's end, and return what it printed and its errors."""
        read: dict[TextIO, str] = {}
        readers = [
            threading.Thread(target=lambda file=file: read.update({file: file.read()}), daemon=True)
            for file in (self.stdout, self.stderr)
        ]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            raise
        for reader in readers:
            reader.join()
        output, errors = read[self.stdout], read[self.stderr]
        self.stdout.close()
        self.stderr.close()
        return output, errors


def run(
    arguments: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    timeout: float | None = None,
    given: bytes | str = b"",
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    program = Program(arguments, cwd, env, given)
    output, errors = program.communicate(timeout)
    return subprocess.CompletedProcess(program.args, program.returncode, output, errors)


def _pipe() -> tuple[TextIO, int]:
    """A pipe: an open file to read from, and the number of the end that a program writes to."""
    reading, writing = os.pipe()
    return os.fdopen(reading, encoding="utf-8"), writing


def _write(pipe: int, text: bytes) -> None:
    """Write a program's input; it may end without having read it all."""
    with suppress(BrokenPipeError), os.fdopen(pipe, "wb", buffering=0) as file:
        left = memoryview(text)
        while left:
            left = left[file.write(left) :]


@cache
def _server() -> socket.socket:
    """Start the process that forks itself, once for all tests of this process."""
    from lm_course.mutation_testing.mutant_runs import (
        PRELOADED,  # here: the server loads no module of ours
    )

    ours, theirs = socket.socketpair()
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno()), *PRELOADED, *LIBRARIES],
        env=kept,
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


# From here on, what runs in the server.


def serve(connection: socket.socket, libraries: Sequence[str]) -> None:
    """Fork for every request, until the tests have ended."""
    for name in libraries:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the waiting processes
    while True:
        message, files, _, _ = socket.recv_fds(connection, len(REQUEST), 5)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.close()
            try:
                _fork_and_wait(*files)
            finally:
                os._exit(1)
        for file in files:
            os.close(file)


def _fork_and_wait(given: int, output: int, errors: int, status: int, request: int) -> None:
    """Run the program in a fork, and tell its exit status when it has ended."""
    with open(request, "rb") as file:
        arguments, folder, environment = json.load(file)
    program = os.fork()
    if program == 0:
        os.setsid()
        os.write(status, b"%d\n" % os.getpid())
        os.close(status)
        for number, file in enumerate((given, output, errors)):
            os.dup2(file, number)
            os.close(file)
        _run(arguments, folder, environment)
    for file in (given, output, errors):
        os.close(file)
    _, ended = os.waitpid(program, 0)
    os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
    os._exit(0)


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run a program as Python would, and exit."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = os.fdopen(0, encoding="utf-8", newline="\n", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    installed = sys.path[1:]  # the first is the folder of this file
    given = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*dict.fromkeys([*given, *installed])]
    importlib.invalidate_caches()
    status = 1
    try:
        _run_main(arguments)
        status = 0
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)


def _run_main(arguments: list[str]) -> None:
    option, *rest = arguments
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    if option == "-m":
        name, *rest = rest
        sys.argv = ["-m", *rest]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif option == "-c":
        code, *rest = rest
        sys.argv = ["-c", *rest]
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), vars(main))
    else:
        sys.argv = [option, *rest]
        sys.path.insert(0, str(Path(option).absolute().parent))
        runpy.run_path(option, run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
