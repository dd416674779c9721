"""The documentation of the Python installation itself: real input on every machine, without a
download.

Two kinds of pages: the standard library's modules as pydoc renders them to HTML, and the long
description (README) of every installed distribution. The same Python and packages give the same
bytes.

What this leaves out: private modules, tests, IDLE and modules whose import has a visible effect;
modules in site-packages (their docstrings are mined in instruction_mining.py); the reference
manual, which an installation does not include.
"""

import os
import pkgutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from data_pipeline.sources.http_responses import split_content_type
from data_pipeline.sources.warc_files import Page

EXCLUDED_PARTS = frozenset(
    {"test", "tests", "idlelib", "turtledemo", "antigravity", "this", "pydoc_data", "site-packages"}
)
MODULES_PER_CHILD = (
    16  # fixed, so that the grouping of imports does not depend on the number of cores
)
CHILD_SCRIPT = Path(__file__).with_name("pydoc_child.py")
Item = TypeVar("Item")


def is_public_module(name: str) -> bool:
    """Return whether a module is for users: not private, not a test, harmless to import."""
    parts = name.split(".")
    return not any(part.startswith(("_", "test_")) or part in EXCLUDED_PARTS for part in parts)


def _modules_under(folders: list[str], prefix: str = "") -> Iterator[str]:
    """Yield the names of the modules under `folders`, without importing any package."""
    for found in pkgutil.iter_modules(folders, prefix):
        if not is_public_module(found.name):
            continue
        yield found.name
        if found.ispkg:
            last_part = found.name.rpartition(".")[2]
            yield from _modules_under(
                [str(Path(folder, last_part)) for folder in folders], found.name + "."
            )


def standard_library_modules() -> list[str]:
    """Return the public modules of the standard library on this machine, sorted."""
    folders = [sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED")]
    names = set(_modules_under([folder for folder in folders if folder]))
    names |= {name for name in sys.builtin_module_names if is_public_module(name)}
    return sorted(name for name in names if name.partition(".")[0] in sys.stdlib_module_names)


def spread_evenly(items: list[Item], count: int) -> list[Item]:
    """Return `count` of the items at equal distances, all of them if count is 0 or too large."""
    if count == 0 or count >= len(items):
        return items
    return [items[position * len(items) // count] for position in range(count)]


def child_environment(home: str, extra_path: str | None = None) -> dict[str, str]:
    """Return a small fixed environment, because a page prints os.environ and set order follows the
    hash seed.
    """
    environment = {
        "PATH": os.defpath,
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "COLUMNS": "80",
        "BROWSER": "true",  # a command that does nothing, so that no module opens a browser
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if "SYSTEMROOT" in os.environ:  # Windows cannot start Python without it
        environment["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    if extra_path is not None:
        environment["PYTHONPATH"] = extra_path
    return environment


def _run_child(
    names: list[str], folder: Path, seconds_per_module: float, extra_path: str | None
) -> str:
    """Render as many modules as one child can; return why it ended before the last one, "" if it
    did not.
    """
    # -S: no site-packages and none of their start-up hooks; -P: the script's folder is not on the
    # path
    command = [
        sys.executable,
        "-S",
        "-P",
        str(CHILD_SCRIPT),
        str(folder),
        str(seconds_per_module),
        *names,
    ]
    with tempfile.TemporaryDirectory() as home:
        child = subprocess.run(
            command,
            env=child_environment(home, extra_path),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    if child.returncode == 0:
        return ""
    return "timed out" if b"Timeout (" in child.stderr else "ended the process"


def render_batch(
    names: list[str], seconds_per_module: float, extra_path: str | None = None
) -> list[tuple[str, str | None, str]]:
    """Render one batch of modules, starting a new child after each module that ends one.

    Returns (module, html or None, reason of the failure or "") in the order of `names`.
    `extra_path` is one more folder for the child to import from.
    """
    results: list[tuple[str, str | None, str]] = []
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        remaining = list(names)
        while remaining:
            ending = _run_child(remaining, folder, seconds_per_module, extra_path)
            for position, name in enumerate(remaining):
                page, failure = folder / f"{name}.html", folder / f"{name}.failed"
                if page.exists():
                    results.append((name, page.read_text("utf-8"), ""))
                elif failure.exists():
                    results.append((name, None, failure.read_text("utf-8")))
                else:  # this one ended the child; the ones after it have not been tried
                    results.append((name, None, ending or "ended the process"))
                    remaining = remaining[position + 1 :]
                    break
            else:
                remaining = []
    return results


def render_modules(
    names: list[str],
    seconds_per_module: float,
    num_processes: int,
    on_batch: Callable[[int], None],
    extra_path: str | None = None,
) -> tuple[list[Page], dict[str, int]]:
    """Return the pages of the modules that render, in the order of `names`, and the number of
    failures by reason.

    `on_batch(n)` is called when n more modules are done.
    """
    batches = [names[i : i + MODULES_PER_CHILD] for i in range(0, len(names), MODULES_PER_CHILD)]
    pages: list[Page] = []
    failures: dict[str, int] = {}
    for batch in _render_batches(batches, seconds_per_module, num_processes, extra_path):
        for name, html, reason in batch:
            if html is None:
                failures[reason] = failures.get(reason, 0) + 1
            else:
                payload = html.encode("utf-8")
                pages.append(Page(f"pydoc://{name}", "text/html", payload, "utf-8"))
        on_batch(len(batch))
    return pages, dict(sorted(failures.items()))


def _render_batches(
    batches: list[list[str]],
    seconds_per_module: float,
    num_processes: int,
    extra_path: str | None,
) -> Iterator[list[tuple[str, str | None, str]]]:
    """Yield the results of the batches in order; on Ctrl-C, batches that have not begun are
    dropped.
    """
    with ThreadPoolExecutor(num_processes) as pool:  # the threads only wait for their children
        try:
            yield from pool.map(
                lambda batch: render_batch(batch, seconds_per_module, extra_path), batches
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def installed_readmes() -> list[Page]:
    """Return the long description of every installed distribution that has one, sorted by name."""
    pages: dict[str, Page] = {}
    for distribution in metadata.distributions():
        fields = distribution.metadata
        name = (fields["Name"] or "").lower().replace("_", "-")
        description = (fields.get("Description") or fields.get_payload() or "").strip()
        if not name or name in pages or description in ("", "UNKNOWN"):
            continue
        # a description without a type is reStructuredText: core metadata specification
        content_type, _ = split_content_type(fields.get("Description-Content-Type") or "text/x-rst")
        payload = description.encode("utf-8", "replace")
        pages[name] = Page(f"readme://{name}", content_type, payload, "utf-8")
    return [pages[name] for name in sorted(pages)]
