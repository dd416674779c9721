"""`lm doctor`: this machine, whether its numbers can be trusted, and what can be trained on it.

What this leaves out: the checks themselves (trusted_numbers.py), and the predictions
(memory_fit.py, training_plan.py).
"""

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lm_core.artifact_paths import RunPaths
from lm_course.locations import in_home, recipe_file, shown

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from lm_course.machine_check.training_plan import TrainingPlan
    from lm_course.machine_check.trusted_numbers import NumberCheck

DEMO = Path("recipes/demo_cpu.toml")
SMALLER = "try activation_checkpointing = true, or more micro_batches"
GRADIENTS_SHOWN = 3  # the worst
TF32_ERROR = 2e-3  # its unit roundoff is 2^-11


def register(app: typer.Typer) -> None:
    """Add the command to `lm`."""
    app.command("doctor")(doctor)


def doctor(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe; without one, the demo's is the example.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps; by default that of the recipe.")
    ] = None,
) -> None:
    """Check this machine: its numbers, its speed, and what fits into its memory.

    The exit status is 1 if the numbers of float32 or bfloat16 cannot be trusted, if RECIPE needs a
    type that does not run here, or if it does not fit into memory or its checkpoints onto the disk.
    """
    from lm_core.settings import load_settings
    from lm_core.user_error import UserError
    from lm_course.commands.plain_console import plain_console
    from lm_course.machine_check.training_plan import training_plan, vocabulary
    from lm_course.machine_check.trusted_numbers import number_checks
    from lm_course.pipeline.recipe import Recipe

    path = recipe_file(recipe or DEMO)
    settings: Any = load_settings(Recipe, path, overrides)
    if settings.pretrain is None:
        raise UserError(f"{shown(path)} has no [pretrain]; lm doctor checks recipes that train")
    place, other = device_here(device, settings.pretrain.device)
    console = plain_console()
    print_pairs(console, "Machine", [*machine(place), *other])
    checks = list(number_checks(place))
    print_checks(console, checks, place)
    problems = [
        f"do not trust {check.dtype} on this device" for check in checks if not check.trusted
    ]
    usable = [check.dtype for check in checks if check.failure is None and check.trusted]
    if "float32" not in usable:
        _end(console, problems)
    paths = RunPaths(in_home(settings.run.folder) / settings.run.name)
    size, remark = vocabulary(settings.tokenizer, paths.shards)
    folder = paths.checkpoints("pretrain")
    plan = training_plan(settings.pretrain, size, place, folder, usable)
    ranks = settings.parallel.data if "parallel" in settings.model_fields_set else None
    rows = training(plan, place, usable, remark, memory_of(plan, settings.pretrain, ranks))
    print_pairs(console, f"Pretraining with {shown(path)}", rows)
    print_fits(console, plan, place)
    in_float32 = "" if "bfloat16" in usable else " in float32"
    needs_more = settings.pretrain.training.precision != "float32"
    if in_float32 and needs_more and (problems or recipe is not None):
        problems.append("set pretrain.training.precision to float32")
    if recipe is not None:
        if not plan.fits_memory and ranks is None:
            problems.append(f"{shown(path)} does not fit into one device's memory; {SMALLER}")
        problems += [] if plan.fits_disk else [f"the checkpoints of {shown(path)} fill the disk"]
    _end(console, problems, f"All is well{in_float32}.")


def _end(console: "Console", problems: list[str], well: str = "") -> None:
    """Print the last line; if there are problems, end with status 1."""
    console.print("\n" + ("; ".join(problems) or well), style="bold")
    if problems:
        sys.exit(1)


def device_here(named: str | None, of_recipe: str) -> tuple["torch.device", list[tuple[str, str]]]:
    """Return the device to check, and a row that says so if it is not that of the recipe.

    Raises:
        UserError: the device named on the command line does not exist here, or nowhere.
    """
    from lm_core.device import pick_device
    from lm_core.user_error import UserError

    if named is not None:
        return pick_device(named), []
    try:
        return pick_device(of_recipe), []
    except UserError:
        if of_recipe.partition(":")[0] not in ("cuda", "mps"):
            raise
        here = pick_device("auto")
        return here, [("the recipe's", f"{of_recipe}, which is not here; {here} is checked")]


def machine(device: "torch.device") -> list[tuple[str, str]]:
    """Return the facts about this machine, as labels and texts."""
    import torch

    from lm_course.machine_check.memory_fit import computer_memory, device_memory

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    rows = [
        ("Python", f"{platform.python_version()} on {platform.system()}"),
        ("PyTorch", torch.__version__),
        ("device", f"{device} ({name})"),
        ("cores", f"{usable_cores()} usable; PyTorch takes {torch.get_num_threads()}"),
        ("memory", _memory(computer_memory())),
    ]
    if device.type != "cpu":
        rows.append(("its memory", _memory(device_memory(device))))
    return rows


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory(memory: Any) -> str:
    total = "unknown" if memory.total is None else gigabytes(memory.total)
    return total if memory.free is None else f"{total}, {gigabytes(memory.free)} free"


def gigabytes(number: int) -> str:
    """Return bytes as gigabytes with one decimal, or as megabytes."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def print_pairs(console: "Console", title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print a title and a table of labels and texts."""
    from rich.table import Table

    console.print(f"\n{title}", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    for label, text in rows:
        table.add_row(f"  {label}", text)
    console.print(table)


def print_checks(
    console: "Console", checks: "Sequence[NumberCheck]", device: "torch.device"
) -> None:
    """Print the errors of each number type."""
    from rich.table import Table

    from lm_course.machine_check.trusted_numbers import ROUNDINGS

    console.print("\nNumbers: a small model, against float64 on the CPU", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("  type", "product", "logits", "loss", "gradients", "allowed", ""):
        table.add_column(column, justify="left" if column in ("  type", "") else "right")
    for check in checks:
        if check.failure is None:
            figures = (check.product, check.logits, check.loss, check.gradients, check.tolerance)
            verdict = "right" if check.trusted else "WRONG"
            table.add_row(f"  {check.dtype}", *(f"{x:.1e}" for x in figures), verdict)
    console.print(table)
    for check in checks:
        if check.failure is not None:
            console.print(f"  {check.dtype} does not run here: {check.failure}")
        elif not check.trusted:
            console.print(f"  {check.dtype}: {likely_cause(check, device)}")
            for name in check.wrong_gradients[:GRADIENTS_SHOWN]:
                console.print(f"    wrong gradient: {name}")
            if len(check.wrong_gradients) > GRADIENTS_SHOWN:
                console.print(f"    and {len(check.wrong_gradients) - GRADIENTS_SHOWN} others")
    console.print("  errors are relative to the norm of the exact result")
    console.print(f"  allowed: unit roundoff x sqrt({ROUNDINGS} roundings), float32 x 4")
    if all(check.repeats for check in checks):
        console.print("  a second pass gives the same bits")
    else:
        kinds = ", ".join(check.dtype for check in checks if not check.repeats)
        console.print(f"  a second pass differs in {kinds}: a resumed run will, too")


def likely_cause(check: "NumberCheck", device: "torch.device") -> str:
    """Return what to look at, for a check that failed."""
    if not check.product <= check.tolerance:
        if device.type == "cuda" and check.dtype == "float32" and check.product < TF32_ERROR:
            return "products are rounded to TF32; set torch.set_float32_matmul_precision('highest')"
        return "the product of two matrices is wrong; update the driver and PyTorch"
    if not check.logits <= check.tolerance:
        return "products are right, but the forward pass is not"
    if not check.loss <= check.tolerance:
        return "logits are right, but the loss is not"
    return "only gradients are wrong"


def training(
    plan: "TrainingPlan",
    device: "torch.device",
    usable: Sequence[str],
    remark: str,
    memory: str,
) -> list[tuple[str, str]]:
    """Return what pretraining will do here, as labels and texts.

    Args:
        plan: of the recipe.
        device: where to train.
        usable: the precisions that run there.
        remark: about the size of the vocabulary; may be empty.
        memory: from `memory_of`.
    """
    from training.engine.step_statistics import PRECISIONS, product_flops_per_second
    from transformer_lm.model_cost import count_parameters

    rates = {name: product_flops_per_second(device, PRECISIONS[name]) for name in usable}
    return [
        ("parameters", f"{count_parameters(plan.config):,}" + (f" {remark}" if remark else "")),
        ("precision", f"{plan.precision or 'unknown'} ({plan.reason})"),
        ("attention", plan.backend),
        ("Triton kernels", "run here" if plan.triton is None else f"not usable: {plan.triton}"),
        ("optimizer", plan.optimizer),
        *((f"{name} products", f"{rate / 1e9:,.0f} GFLOP/s") for name, rate in rates.items()),
        ("memory", memory),
        (
            "checkpoints",
            f"{gigabytes(plan.disk_needed)}, {gigabytes(plan.disk_free)} free: "
            f"{_fits(plan.fits_disk)}",
        ),
    ]


def memory_of(plan: "TrainingPlan", settings: Any, ranks: str | None) -> str:
    """Return the predicted memory in words, and whether it fits.

    Args:
        plan: of the recipe.
        settings: the recipe's section [pretrain].
        ranks: `[parallel] data` of a recipe for many ranks: what each of them needs depends on
            their number; None for one device.
    """
    from lm_course.machine_check.memory_fit import optimizer_and_weights_bytes

    found = f"{gigabytes(plan.bytes_needed)} predicted"
    if ranks is None:
        return f"{found}: {_fits(plan.fits_memory)}"
    held = gigabytes(optimizer_and_weights_bytes(plan.config, settings.training.optimizer))
    shares = {"fsdp": "about 1/N", "ddp": f"{held} and 1/N of the rest"}
    return f"{found} without other ranks; each of N needs {shares[ranks]}"


def _fits(fits: bool) -> str:
    return "fits" if fits else "does NOT fit"


def print_fits(console: "Console", plan: "TrainingPlan", device: "torch.device") -> None:
    """Print which of the standard shapes can be trained here, with one sequence at a time."""
    from rich.table import Table

    from lm_course.machine_check.memory_fit import (
        STANDARD_SHAPES,
        standard_shape,
        training_bytes,
    )

    precision = plan.precision or "float32"
    title = f"Predicted memory: one sequence at a time, {precision}, AdamW"
    console.print(f"\n{title}", style="bold")
    table = Table(box=None, pad_edge=False)
    for column in ("  model", "context", "memory", "recomputing", ""):
        table.add_column(column, justify="left" if column in ("  model", "") else "right")
    largest = None
    shapes = {"recipe": plan.config} | {name: standard_shape(name) for name in STANDARD_SHAPES}
    for name, config in shapes.items():
        whole, less = (training_bytes(config, 1, precision, again) for again in (False, True))
        fits = [plan._replace(bytes_needed=needed).fits_memory for needed in (whole, less)]
        verdict = "fits" if fits[0] else "fits if recomputing" if fits[1] else "too large"
        largest = name if name != "recipe" and any(fits) else largest
        context = f"{config.context_length:,}"
        table.add_row(f"  {name}", context, gigabytes(whole), gigabytes(less), verdict)
    console.print(table)
    console.print("  recomputing: with activation_checkpointing = true")
    console.print("  12M is our benchmark's model; the larger are GPT-2's")
    console.print(f"  the largest that fits on {device}: {largest or 'none'}")
