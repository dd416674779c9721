"""The source of the pages: this machine's Python documentation, written once into a WARC file.

What this leaves out: all other inputs, which `page_files.py` reads.
"""

import time
from pathlib import Path

from pydantic import Field

from data_pipeline.sources.python_documentation import (
    installed_readmes,
    render_modules,
    spread_evenly,
    standard_library_modules,
)
from data_pipeline.sources.warc_files import write_warc
from lm_core.progress import progress_bar
from lm_core.settings import Settings
from lm_core.user_error import UserError


class CollectSettings(Settings):
    """Settings of `lm data collect`.

    Attributes:
        seconds_per_module: time limit for importing and rendering.
        include_readmes: include the README of every installed distribution.
        max_modules: 0 means all; fewer, spread evenly, for a quick try.
        num_processes: number of child processes; does not change the output.
    """

    seconds_per_module: float = Field(default=20.0, gt=0)
    include_readmes: bool = True
    max_modules: int = Field(default=0, ge=0)
    num_processes: int = Field(default=2, ge=1)


def write_python_documentation(path: Path, settings: CollectSettings) -> dict[str, object]:
    """Render the standard library and the installed READMEs into the gzipped WARC file `path`.

    Returns the counts: modules tried, pages, failures by reason, READMEs, bytes of the payloads,
    seconds.
    """
    started = time.perf_counter()
    names = spread_evenly(standard_library_modules(), settings.max_modules)
    with progress_bar("render the standard library", len(names), "modules") as bar:
        pages, failures = render_modules(
            names, settings.seconds_per_module, settings.num_processes, bar.advance
        )
    readmes = installed_readmes() if settings.include_readmes else []
    if not pages:
        raise UserError(
            f"none of {len(names)} standard library modules could be rendered "
            f"({failures}); check `python -m pydoc os`"
        )
    write_warc(path, [*pages, *readmes])
    return {
        "modules": len(names),
        "pages": len(pages),
        "failed": failures,
        "readmes": len(readmes),
        "payload_bytes": sum(len(page.payload) for page in [*pages, *readmes]),
        "seconds": round(time.perf_counter() - started, 1),
    }
