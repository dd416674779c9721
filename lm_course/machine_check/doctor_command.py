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
    """Check this machine: its numbers, its speed, and what fits into its memory."""
    from lm_core.device import pick_device
    from lm_core.settings import load_settings
    from lm_course.commands.plain_console import plain_console
    from lm_course.machine_check.training_plan import training_plan
    from lm_course.machine_check.trusted_numbers import number_checks
    from lm_course.pipeline.recipe import Recipe

    path = recipe_file(recipe or DEMO)
    settings: Any = load_settings(Recipe, path, overrides)
    place = pick_device(device or settings.pretrain.device)
    console = plain_console()
    print_pairs(console, "Machine", machine(place))
    checks = list(number_checks(place))
    print_checks(console, checks, place)
    folder = RunPaths(in_home(settings.run.folder) / settings.run.name).checkpoints("pretrain")
    plan = training_plan(settings.pretrain, settings.tokenizer.vocab_size, place, folder)
    print_pairs(console, f"Pretraining with {shown(path)}", training(plan, place))
    print_fits(console, plan, place)
    problems = [
        f"do not trust {check.dtype} on this device" for check in checks if not check.trusted
    ]
    if recipe is not None:
        problems += [] if plan.fits_memory else [f"{shown(path)} does not fit into the memory"]
        problems += [] if plan.fits_disk else [f"the checkpoints of {shown(path)} fill the disk"]
    console.print("\n" + ("; ".join(problems) or "All is well."), style="bold")
    if problems:
        sys.exit(1)


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

    console.print("\nNumbers: a small model, against float64 on the CPU", style="bold")
    table = Table(box=None, pad_edge=False)
    for column in ("  type", "product", "logits", "gradients", "allowed", ""):
        table.add_column(column, justify="left" if column in ("  type", "") else "right")
    for check in checks:
        if check.failure is None:
            figures = (check.product, check.logits, check.gradients, check.tolerance)
            verdict = "right" if check.trusted else "WRONG"
            table.add_row(f"  {check.dtype}", *(f"{x:.1e}" for x in figures), verdict)
    console.print(table)
    for check in checks:
        if check.failure is not None:
            console.print(f"  {check.dtype} does not run here: {check.failure}")
        elif not check.trusted:
            console.print(f"  {check.dtype}: {likely_cause(check, device)}")
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
    return f"only gradients are wrong, most that of {check.worst_gradient}"


def training(plan: "TrainingPlan", device: "torch.device") -> list[tuple[str, str]]:
    """Return what pretraining will do here, as labels and texts."""
    from lm_course.machine_check.training_plan import PRECISIONS
    from training.engine.step_statistics import product_flops_per_second
    from transformer_lm.model_cost import count_parameters

    rates = {name: product_flops_per_second(device, dtype) for name, dtype in PRECISIONS.items()}
    return [
        ("parameters", f"{count_parameters(plan.config):,}"),
        ("precision", f"{plan.precision or 'unknown'} ({plan.reason})"),
        ("attention", plan.backend),
        *((f"{name} products", f"{rate / 1e9:,.0f} GFLOP/s") for name, rate in rates.items()),
        ("memory", f"{gigabytes(plan.bytes_needed)} predicted: {_fits(plan.fits_memory)}"),
        (
            "checkpoints",
            f"{gigabytes(plan.disk_needed)}, {gigabytes(plan.disk_free)} free: "
            f"{_fits(plan.fits_disk)}",
        ),
    ]


def _fits(fits: bool) -> str:
    return "fits" if fits else "does NOT fit"


def print_fits(console: "Console", plan: "TrainingPlan", device: "torch.device") -> None:
    """Print which of the standard shapes can be trained here, with one sequence at once."""
    from rich.table import Table

    from lm_course.machine_check.memory_fit import (
        STANDARD_SHAPES,
        standard_shape,
        training_bytes,
    )
    from transformer_lm.model_cost import count_parameters

    precision = plan.precision or "float32"
    title = f"GPT-2's sizes, batch 1 of 1,024 tokens, {precision}, AdamW"
    console.print(f"\n{title}", style="bold")
    table = Table(box=None, pad_edge=False)
    for column in ("  model", "parameters", "memory", "recomputing", ""):
        table.add_column(column, justify="left" if column in ("  model", "") else "right")
    largest = None
    for name in STANDARD_SHAPES:
        config = standard_shape(name)
        whole, less = (training_bytes(config, 1, precision, again) for again in (False, True))
        fits = [plan._replace(bytes_needed=needed).fits_memory for needed in (whole, less)]
        verdict = "fits" if fits[0] else "fits if recomputing" if fits[1] else "too large"
        largest = name if any(fits) else largest
        parameters = f"{count_parameters(config):,}"
        table.add_row(f"  {name}", parameters, gigabytes(whole), gigabytes(less), verdict)
    console.print(table)
    console.print("  recomputing: with activation_checkpointing = true")
    console.print(f"  the largest that fits on {device}: {largest or 'none'}")
