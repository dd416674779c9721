"""`lm compare`: a model layer by layer against the same model in `transformers`.

What this leaves out: the comparison itself (model_comparison.py, layer_errors.py).
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lm_core.artifact_paths import write_json
from lm_core.stand_ins import stand_in_files
from lm_core.user_error import UserError
from lm_course.commands.step_commands import Implementation, set_stand_ins
from lm_course.locations import shown

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from lm_course.model_checks.compared_models import ComparedModels
    from lm_course.model_checks.layer_errors import LayerError
    from lm_course.model_checks.model_comparison import Comparison

AGAINST = ("transformers",)
WIDE = 80  # columns from which the tables also have the less important figures
# What lies before the place at which a layer reads a wrong input, by the layer's name.
BEFORE = {
    "attention.output": "scores, mask and softmax",
    "feed_forward.down": "the activation and the product",
    "feed_forward_norm": "the sum after attention",
    "attention_norm": "the stream at the start of the block",
    "final_norm": "the stream after the last block",
    "attention": "what the block gives to attention",
    "feed_forward": "what the block gives to its feed-forward layer",
}


def register(app: typer.Typer) -> None:
    """Add the command to `lm`."""
    app.command("compare")(compare)


def compare(
    model: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint or a run, a Hugging Face folder, a GGUF file, or the name smollm2."
        ),
    ],
    against: Annotated[
        str, typer.Option(help="What to compare with; only transformers so far.")
    ] = "transformers",
    dtypes: Annotated[
        list[str] | None,
        typer.Option("--type", help="float32, bfloat16 or float16; by default all three."),
    ] = None,
    backends: Annotated[
        list[str] | None,
        typer.Option("--backend", help="An attention backend; by default all that run here."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Length of the two random sequences that are compared.")
    ] = None,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Compare the gradients too, in float32.")
    ] = False,
    all_layers: Annotated[
        bool, typer.Option("--layers", help="Print every layer, not only the important ones.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where our model runs: auto, cpu, cuda, mps.")
    ] = "cpu",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures here.")
    ] = None,
    implementation: Implementation = None,
) -> None:
    """Find the layer whose numbers differ from those of transformers."""
    set_stand_ins(implementation)
    if against not in AGAINST:
        raise UserError(f"--against {against}: expected {', '.join(AGAINST)}")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"--json {json_file}: no folder {json_file.parent}; create it first")
    from lm_core.device import pick_device

    choices = _checked_choices(dtypes, backends)
    place = pick_device(device)
    equal = compare_model(
        model_source(model), tokens, place, choices, gradients, all_layers, json_file
    )
    if not equal:
        sys.exit(1)


def compare_model(
    source: Path,
    tokens: int | None,
    device: "torch.device",
    choices: tuple[list[str], list[str] | None],
    gradients: bool,
    all_layers: bool,
    json_file: Path | None,
) -> bool:
    """Compare, print the tables, write the figures, and return whether the models are equal.

    Args:
        source: from `model_source`.
        tokens: length of the sequences; None for the default.
        device: where our model runs.
        choices: number types and backends; None for all backends that run here.
        gradients: whether to compare gradients too.
        all_layers: whether to print all layers.
        json_file: the file for all figures; None for none.
    """
    from lm_core.progress import progress_bar
    from lm_course.commands.plain_console import plain_console
    from lm_course.model_checks.compared_models import load_both
    from lm_course.model_checks.model_comparison import BACKENDS, comparisons, random_tokens

    models = load_both(source)
    length = _length(tokens, models.ours.config)
    console = plain_console()
    print_header(console, source, models, length)
    ids = random_tokens(models.ours.config, length)
    found, total = [], len(choices[0]) * len(choices[1] or BACKENDS)
    with progress_bar("compare", total, "types and backends") as bar:
        for one in comparisons(models, ids, device, *choices, with_gradients=gradients):
            found.append(one)
            bar.advance(1)
    print_summary(console, found)
    first = next((one for one in found if one.first is not None), found[0])
    print_layers(console, first, all_layers)
    print_conclusion(console, found, models)
    wrong = models.wrong_weights
    if json_file is not None:
        rows = [one.as_json() for one in found]
        write_json(json_file, {"tokens": length, "wrong_weights": wrong, "comparisons": rows})
    return not wrong and first.first is None


def model_source(given: Path) -> Path:
    """Return the checkpoint folder, model folder or GGUF file that an argument names.

    Raises UserError if there is none.
    """
    from lm_course.commands.checkpoint_choice import chosen_checkpoint
    from lm_course.commands.model_commands import check_source
    from lm_course.commands.named_models import model_path

    path = model_path(given)
    if path.is_dir() and not (path / "config.json").is_file() and not list(path.glob("*.gguf")):
        try:
            return chosen_checkpoint(path)
        except UserError:
            raise UserError(
                f"{path}: holds no checkpoint; name one, a Hugging Face folder or a GGUF file"
            ) from None
    check_source(path)
    return path


def _checked_choices(
    dtypes: Sequence[str] | None, backends: Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    from lm_course.model_checks.model_comparison import BACKENDS, DTYPES

    for option, given, known in (("type", dtypes, DTYPES), ("backend", backends, BACKENDS)):
        for name in given or ():
            if name not in known:
                raise UserError(f"--{option} {name}: expected {', '.join(known)}")
    return list(dict.fromkeys(dtypes or DTYPES)), backends and list(dict.fromkeys(backends))


def _length(given: int | None, config: Any) -> int:
    from lm_course.model_checks.model_comparison import default_tokens

    if given is None:
        return default_tokens(config)
    if not 2 <= given <= config.context_length:
        raise UserError(f"--tokens {given}: expected 2 to {config.context_length}, the context")
    return given


def print_header(console: "Console", source: Path, models: "ComparedModels", length: int) -> None:
    """Say what is compared, and when a difference is too large."""
    from lm_course.model_checks.layer_errors import ALLOWED

    config = models.ours.config
    console.print(f"{shown(source)} ({models.family.name}), 2 x {length} random tokens")
    for file in stand_in_files("transformer_lm") + stand_in_files("training"):
        console.print(f"your file: {shown(file)}")
    window = config.sliding_window
    if window is not None and window >= length:
        console.print(f"the window of {window:,} is longer: --tokens {window + 8} shows it")
    console.print(
        f"Errors are relative to a tensor's largest value in float64. Allowed: {ALLOWED:g} times "
        "the larger of transformers' own error and the expected rounding error.\n"
    )


def place_of(row: "LayerError") -> str:
    """Return where an error is, in words."""
    if row.kind == "output":
        return row.name
    inner = re.sub(r"^blocks\.\d+\.", "", row.name)
    before = BEFORE.get(inner, "the stream at the start of the block")
    return f"input of {row.name}: {before}"


def print_summary(console: "Console", found: "Sequence[Comparison]") -> None:
    """Print one row for each type and backend."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("type", "attention", "first difference"):
        table.add_column(column, overflow="fold", no_wrap=column != "first difference")
    for column in ("error", "allowed"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        first = one.first
        if first is None:
            worst = max(one.layers, key=lambda row: row.here / row.tolerance)
            where = f"none before {one.overflow}: overflow" if one.overflow else "none"
            if one.gradients:
                where += ", gradients too"
            table.add_row(
                one.dtype, one.backend, where, f"{worst.here:.1e}", f"{worst.tolerance:.1e}"
            )
        else:
            error, limit = first.here, first.tolerance
            if first.verdict == "inherited":
                error, limit = first.whole, first.whole_tolerance
            where = ("gradient of " if one.in_gradients else "") + place_of(first)
            table.add_row(one.dtype, one.backend, where, f"{error:.1e}", f"{limit:.1e}")
    console.print(table)


def print_layers(console: "Console", one: "Comparison", all_layers: bool) -> None:
    """Print the errors of the layers of one comparison, and of the parts of a wrong layer."""
    from rich.table import Table

    what = "gradients" if one.in_gradients else "layers"
    which = "" if one.first is not None or all_layers else " (the worst of each kind)"
    console.print(f"\n{what}, {one.dtype}, {one.backend} attention{which}:")
    rows = one.gradients if one.in_gradients else one.layers
    rows = [row for row in rows if row.kind == "output" or row.verdict != "equal"]
    if not all_layers:
        rows = important(rows, one.first)
    wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False)
    columns = ["layer", "error here", "allowed", *(["whole run"] if wide else []), "verdict"]
    for column in columns:
        table.add_column(column, justify="left" if column in ("layer", "verdict") else "right")
    for row in rows:
        _add(table, row, wide, "")
        if one.first is row:
            for part in one.parts:
                if part.kind == "output" or part.verdict != "equal":
                    _add(table, part, wide, "  ")
    console.print(table)


def _add(table: Any, row: "LayerError", wide: bool, indent: str) -> None:
    figures = [f"{row.here:.1e}", f"{row.tolerance:.1e}"]
    if wide:
        figures.append("" if row.kind == "input" else f"{row.whole:.1e}")
    table.add_row(indent + place_of(row), *figures, row.verdict)


def important(rows: "Sequence[LayerError]", first: "LayerError | None") -> "list[LayerError]":
    """Return the rows to print: the block of the first difference and the ends of the model; or, if
    there is none, the worst layer of each kind.
    """
    if first is not None:
        block = re.match(r"blocks\.\d+", first.name)
        own = f"{block[0]}." if block else "-"
        return [r for r in rows if not r.name.startswith("blocks.") or f"{r.name}.".startswith(own)]
    worst: dict[str, LayerError] = {}
    for row in rows:
        kind = re.sub(r"^blocks\.\d+", "", row.name)
        if kind not in worst or row.here / row.tolerance > worst[kind].here / worst[kind].tolerance:
            worst[kind] = row
    return [row for row in rows if row in worst.values()]


def agreement(found: "Sequence[Comparison]") -> str:
    """Return the conclusion for comparisons without a difference; some may have ended early."""
    ended = [one for one in found if one.overflow is not None]
    if not ended:
        return "Every layer computes what transformers computes."
    types = ", ".join(dict.fromkeys(one.dtype for one in ended))
    return (
        f"No difference was found. But transformers' numbers overflow in {types}, at "
        f"{ended[0].overflow}, and nothing after it was compared."
    )


def print_conclusion(
    console: "Console", found: "Sequence[Comparison]", models: "ComparedModels"
) -> None:
    """Say what to look at."""
    for name, difference in list(models.wrong_weights.items())[:3]:
        console.print(f"weight {name} differs from transformers' by {difference:.1e}")
    wrong = [one for one in found if one.first is not None]
    if not wrong:
        if not models.wrong_weights:
            console.print(f"\n{agreement(found)}")
        return
    first = wrong[0].first
    assert first is not None, "chosen by it"
    if first.verdict == "inherited":
        console.print(
            f"\nNo layer alone is wrong, but rounding errors add up to too much at {first.name}."
        )
        return
    part = next((row for row in wrong[0].parts if row.verdict == "wrong"), first)
    where = "gradient of " if wrong[0].in_gradients else ""
    kinds = ", ".join(dict.fromkeys(one.dtype for one in wrong))
    names = ", ".join(dict.fromkeys(one.backend for one in wrong))
    console.print(f"\nFirst difference: {where}{place_of(part)}", style="bold")
    console.print(f"in {kinds}; attention by {names}.")
    if not wrong[0].in_gradients:
        console.print("It read the right input. Layers marked inherited are right by themselves.")
