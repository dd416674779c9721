"""The step `text`: plain text files to documents, as they are. It replaces `collect` and
`documents`.

The user's files are an artifact of the step, so a changed file runs it again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.downloads.registered_sets import data_set_named
from data_pipeline.sources.plain_text import TextSettings, write_text_documents
from lm_core.user_error import UserError
from lm_course.locations import data_folder, shown
from lm_course.pipeline.step import Step, StepContext


def own_text_files(sections: Mapping[str, Any]) -> dict[str, tuple[Path, ...]]:
    """Return the files that the recipe names, by path or as a data set."""
    settings = sections["text"]
    if settings.paths:
        return {"text": settings.paths}
    if settings.dataset:
        data_set = data_set_named(settings.dataset)
        if data_set.use != "text":
            raise UserError(
                f"text.dataset={settings.dataset}: not a text for training, but {data_set.title}; "
                "`lm data get` lists the others"
            )
        return {"text": data_set.paths(data_folder())}
    return {}


def found_text_files(settings: TextSettings) -> tuple[Path, ...]:
    """Return the files and folders of the section; raise UserError if it names none, or if its data
    set is not there.
    """
    own = own_text_files({"text": settings})
    if not own:
        raise UserError(
            "[text] names no text: give a file or folder with --set text.path=FILE, or run "
            "`lm data get shakespeare` and set text.dataset=shakespeare"
        )
    missing = [] if settings.paths else [path for path in own["text"] if not path.is_file()]
    if missing:
        raise UserError(
            f"{shown(missing[0])}: no such file; run `lm data get {settings.dataset}`, or give a "
            "text of your own with --set text.path=FILE"
        )
    return own["text"]


def text(context: StepContext) -> dict[str, Any]:
    """Turn text files into documents."""
    row = write_text_documents(found_text_files(context.settings), context.output("documents"))
    return {"documents": row["documents_out"], "bytes": row["bytes_out"]}


STEP = Step(
    name="text",
    command="lm data text",
    help="Turn text files into documents, as they are.",
    run=text,
    describe=lambda s: f"{s['documents']:,} documents, {s['bytes'] / 1e6:.1f} MB of text",
    settings={"text": TextSettings},
    writes=("text", "documents"),
    users_own=own_text_files,
)
