"""The step `documents`: pages to cleaned, deduplicated documents."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.executors.document_building import DocumentSettings, build_from_files
from data_pipeline.language_id import MODEL_VARIABLE
from data_pipeline.object_stores.listing import read_listing
from data_pipeline.object_stores.store_files import staged
from data_pipeline.quality_classifier import HARMFUL_VARIABLES
from data_pipeline.sources.page_files import page_files
from lm_course.pipeline.step import Step, StepContext


def documents(context: StepContext) -> dict[str, Any]:
    """Turn pages into documents."""
    collected = context.summary("collect")
    num_pages = collected["pages"] + collected["readmes"] if "pages" in collected else None
    given = context.section("pages")
    files = page_files(context.input_files("pages"))
    if given.own_urls:
        files = staged(read_listing(context.input("pages")))
    counts, seconds = build_from_files(
        files,
        context.output("documents"),
        context.settings,
        num_pages,
        given,
    )
    return {
        "pages": counts[0]["documents_in"],
        "documents": counts[-1]["documents_out"],
        "bytes": counts[-1]["bytes_out"],
        "step_seconds": {step: round(spent, 2) for step, spent in seconds.items()},
    }


def filter_files(sections: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the models and evaluation sets that the settings, or the environment, name."""
    settings: DocumentSettings = sections["documents"]
    variables = [MODEL_VARIABLE, *(HARMFUL_VARIABLES[kind] for kind in settings.harmful.kinds)]
    models = [settings.quality_classifier.model, *(os.environ.get(name) for name in variables)]
    named = [*models, *settings.decontamination.evaluation_sets.values()]
    return tuple(Path(name).expanduser() for name in named if name)


STEP = Step(
    name="documents",
    command="lm data build",
    help="Turn pages into cleaned, deduplicated documents.",
    run=documents,
    describe=lambda s: (
        f"{s['documents']:,} of {s['pages']:,} pages kept, {s['bytes'] / 1e6:.1f} MB of text"
    ),
    settings={"documents": DocumentSettings},
    reads_sections=("pages",),  # says which keys hold the text
    reads=("pages",),
    writes=("documents",),
    reads_files=filter_files,
)
