"""The paths of a run's artifacts, and atomic writes: a file is there complete or not at all.

Everything is written to a temporary name in the same folder, flushed to the disk, and renamed.
After a crash, a full disk or Ctrl-C, the old file is unchanged and there is no new one. What this
leaves out: locking, which `lm` does (lm_course/pipeline/run_lock.py).
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lm_core.user_error import UserError

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # a byte of a file name that is not UTF-8
TEMPORARY_PREFIX = ".unfinished-"


@dataclass(frozen=True)
class RunPaths:
    """The names of every artifact under `runs/<name>/` (the table in docs/architecture.md)."""

    root: Path

    @property
    def pages(self) -> Path:
        return self.root / "pages.warc.gz"

    @property
    def instructions(self) -> Path:
        return self.root / "instructions"

    @property
    def documents(self) -> Path:
        return self.root / "documents"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer.json"

    @property
    def merges(self) -> Path:
        return self.root / "merges.txt"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    def checkpoints(self, stage: str) -> Path:
        return self.root / "checkpoints" / stage

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def scaling(self) -> Path:
        return self.root / "scaling"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def samples(self) -> Path:
        return self.root / "samples.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def settings(self) -> Path:
        return self.root / "settings.json"

    def step_record(self, step: str) -> Path:
        return self.root / "steps" / f"{step}.json"


def out_of_space(error: BaseException) -> bool:
    """Return True if this exception, or one that led to it, says that the disk is full.

    Libraries wrap the error number (safetensors, pyarrow and torch each in their own exception), so
    the texts in the chain are also searched.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(link) or "StorageFull" in str(link):
            return True
        link = link.__cause__ or link.__context__
    return False


def remove_path(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents; do nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        # Rename it first: if the process is killed in between, nothing looks complete.
        if not path.name.startswith(TEMPORARY_PREFIX):
            path = path.rename(path.with_name(TEMPORARY_PREFIX + path.name))
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; rename it to `path` if the block succeeds, else remove
    it.

    Args:
        path: the file to create or to replace; its folder is created if it is missing.
        mode: "wb" or "w" (UTF-8, `\\n` line ends).

    Raises:
        OSError: from the file system; `path` is then unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=path.name, dir=path.parent)
    temporary = Path(name)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_current_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; let it replace `path` if the block succeeds.

    The old folder is moved aside before the new one takes its name, and removed afterwards, so
    `path` never holds a part of either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, suffix=path.name, dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_current_umask())
        _flush_to_disk(temporary)
        _take_the_place_of(path, temporary)
    except BaseException:
        remove_path(temporary)
        raise


def _flush_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _take_the_place_of(path: Path, new: Path) -> None:
    if not path.exists():
        new.replace(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=path.parent))
    try:
        path.replace(aside)
        new.replace(path)
    except BaseException:
        if not path.exists():
            aside.replace(path)
        raise
    remove_path(aside)


def _current_umask() -> int:
    """Return the umask. mkstemp and mkdtemp make private files; an artifact gets the permissions
    that open() would give it.
    """
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def remove_unfinished(folder: Path) -> int:
    """Delete what a killed process left behind (SIGKILL leaves no time to clean up), and return how
    many items there were.
    """
    leftovers = list(folder.rglob(f"{TEMPORARY_PREFIX}*")) if folder.is_dir() else []
    for path in leftovers:
        remove_path(path)
    return len(leftovers)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of the names and bytes of all files below a folder,
    as 64 hex digits.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for part in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{part.relative_to(path).as_posix()}\0{file_sha256(part)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON. NaN and infinity are not JSON, so are refused. A
    file name that is not UTF-8 is read back as it was.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path, "w") as file:
        file.write(LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def read_json(path: Path, what: str, make_it: str, next_step: str = "") -> Any:
    """Read a JSON file that an earlier step wrote.

    Args:
        path: the file.
        what: its name in the message ("the evaluation").
        make_it: the command that writes it ("lm eval RECIPE").
        next_step: what to do if no command of ours writes it ("fetch it again").

    Raises:
        ValueError: it is missing, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        step = next_step or f"make it with `{make_it}`"
        raise UserError(f"{path}: {what} does not exist; {step}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        step = next_step or f"make it again with `{make_it}`"
        raise UserError(f"{path}: {what} is not valid JSON ({error}); {step}") from None
