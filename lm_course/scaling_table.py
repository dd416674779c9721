"""What `lm scaling fit RUNS.csv` prints: the fitted surface with its uncertainty, and the best
split of a budget.
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from scaling_laws.compute_budget import best_split, check_budget
from scaling_laws.parametric_fit import SMALLEST_E, fit_surface
from scaling_laws.runs_csv import read_runs_csv

BOOTSTRAPS = 100
BUDGETS_AROUND = (0.01, 0.1, 1.0, 10.0, 100.0)  # times the budget asked for


def print_fit(path: Path, budget: float, console: Console | None = None) -> None:
    """Fit the surface to a table of runs and print it.

    Args:
        path: CSV with the columns parameters, tokens, loss (or N, D, loss).
        budget: training FLOPs to split; budgets around it are shown as well.
        console: where to print; standard output by default.

    Raises:
        ValueError: the table cannot be used, or the fit has no best split.
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
    for name in ("E", "A", "B", "alpha", "beta"):
        low, high = surface.intervals[name]
        fitted.add_row(name, f"{getattr(surface, name):.4g}", f"{low:.4g} to {high:.4g}")
    console.print(fitted)
    for reason in surface.doubts():
        console.print(f"[yellow]Not to be trusted:[/yellow] {reason}", highlight=False)
    if surface.E < SMALLEST_E:
        console.print("So no split of a budget is given: it would follow from E.", highlight=False)
        return
    splits = Table(title="The best split of a budget", title_justify="left")
    for column in ("FLOPs", "parameters", "tokens", "tokens / parameter", "loss"):
        splits.add_column(column, justify="right")
    for factor in BUDGETS_AROUND:
        split = best_split(surface, factor * budget)
        ratio = f"{split.tokens / split.parameters:.3g}"
        counts = f"{split.parameters:.3g}", f"{split.tokens:.3g}"
        splits.add_row(f"{split.flops:.3g}", *counts, ratio, f"{split.loss:.3f}")
    console.print(splits)
    console.print(
        "Intervals are from bootstraps of the runs: a wide one says that these runs cannot tell."
    )
