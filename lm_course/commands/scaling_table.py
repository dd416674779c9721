"""The output of `lm scaling fit RUNS.csv`: the fitted surface with its uncertainty, and the best
split of a budget.
"""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lm_core.user_error import UserError
from scaling_laws.compute_budget import best_split, check_budget
from scaling_laws.loss_surface import LossSurface
from scaling_laws.parametric_fit import BOOTSTRAPS, fit_surface
from scaling_laws.small_runs.runs_csv import read_runs_csv

BUDGETS_AROUND = (0.01, 0.1, 1.0, 10.0, 100.0)  # times the given budget


def print_fit(path: Path, budget: float, console: Console | None = None) -> None:
    """Fit the surface to a table of runs and print it.

    Args:
        path: CSV with the columns parameters, tokens, loss (or N, D, loss).
        budget: training FLOPs to split; budgets around it are also shown.
        console: where to print; standard output by default.

    Raises:
        UserError: the table cannot be used, or the budget is less than one parameter and token.
    """
    check_budget(budget)  # before the fit, which takes seconds
    console = console or Console()
    runs = read_runs_csv(path)
    surface = fit_surface(runs, num_bootstraps=BOOTSTRAPS)
    console.print(
        f"L(N, D) = E + A/N^alpha + B/D^beta, fitted to {len(runs)} runs", highlight=False
    )
    fitted = Table()
    for column in ("", "value", "95 % interval"):
        fitted.add_column(column, justify="right" if column else "left")
    for name, (low, high) in surface.intervals.items():
        fitted.add_row(name, f"{getattr(surface, name):.4g}", f"{low:.4g} to {high:.4g}")
    console.print(fitted)
    console.print("The intervals come from bootstraps of the runs.")
    if surface.settled:
        console.print(_splits(surface, budget))
        return
    console.print("These runs do not determine a surface, so no budget is split:", style="yellow")
    for doubt in surface.doubts:
        console.print(f"- {escape(doubt)}", highlight=False)


def _splits(surface: LossSurface, budget: float) -> Table:
    """Return the best split of the budget and of those around it that pay for at least one
    parameter and one token.
    """
    best_split(surface, budget)  # too small a budget is an error, too small a neighbour is not
    splits = Table(title="The best split of a budget", title_justify="left")
    for column in ("FLOPs", "parameters", "tokens", "tokens / parameter", "loss"):
        splits.add_column(column, justify="right")
    for factor in BUDGETS_AROUND:
        try:
            split = best_split(surface, factor * budget)
        except UserError:
            continue
        ratio = f"{split.tokens / split.parameters:.3g}"
        counts = f"{split.parameters:.3g}", f"{split.tokens:.3g}"
        splits.add_row(f"{split.flops:.3g}", *counts, ratio, f"{split.loss:.3f}")
    return splits
