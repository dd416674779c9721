"""The `lm` command: one subcommand per step, `lm run` for all steps, and commands that use the
results.

A user error ends in one line on standard error and exit status 2. Any other error ends in one line
that says whose it is and where its traceback is kept, and in exit status 1, as does a run in which
a step failed. Ctrl-C ends in one line and exit status 130, as shells expect; during training, it
saves a checkpoint first. SIGTERM does so too, and then ends with status 0, as schedulers expect.
The stages are imported inside the commands, after `--impl` has set LM_STAND_INS.
"""

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from lm_core.user_error import UserError
from lm_course.commands import (
    ablation_commands,
    data_commands,
    learner_commands,
    model_commands,
    tokenizer_commands,
)
from lm_course.commands.checkpoint_choice import CheckpointPath, ModelPath
from lm_course.commands.step_commands import (
    DEMO,
    Implementation,
    Overrides,
    RecipePath,
    Wandb,
    add_step_command,
    run_named_steps,
    set_stand_ins,
)
from lm_course.competition import compete_command
from lm_course.data_ablation import ablate_command
from lm_course.drills import drill_command
from lm_course.error_lines import (
    TRACEBACK_VARIABLE,
    explain,
    keep_in_temporary_folder,
    show_traceback,
    shown,
    version,
)
from lm_course.interrupts import Interrupts
from lm_course.load_test import bench_command
from lm_course.locations import recipe_file
from lm_course.machine_check import doctor_command
from lm_course.model_checks import compare_command
from lm_course.mutation_testing import prove_command
from lm_course.pipeline.step_catalogue import GROUPS, listed_steps
from lm_course.pipeline.step_failures import StepsFailed
from lm_course.serving import serve_command

INTERRUPTED = 130  # 128 + SIGINT, as shells count
# Commands besides the steps that do finished work only once, however often they are stopped.
RESUMED = {"run", "ablate", "compete best-verse", "data ablate", "data get"}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True, help="Turn raw pages into token shards.")
tokenizer_app = typer.Typer(no_args_is_help=True, help="Train and use a byte-level BPE.")
scaling_app = typer.Typer(no_args_is_help=True, help="Predict loss from small runs.")
app.add_typer(data_app, name="data")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(scaling_app, name="scaling")
learner_commands.register(app)
prove_command.register(app)
drill_command.register(app)
model_commands.register(app)
serve_command.register(app)
bench_command.register(app)
compare_command.register(app)
doctor_command.register(app)


def print_version(wanted: bool) -> None:
    """Print the version and exit, if it is wanted."""
    if wanted:
        print(f"lm {version()}")
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Also show the traceback of an error. May come before or after the command. "
            f"{TRACEBACK_VARIABLE}=1 in the environment does the same.",
        ),
    ] = False,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Build a language model from raw pages to a chat, one readable step at a time."""
    if debug:
        os.environ[TRACEBACK_VARIABLE] = "1"


def debug_first(arguments: Sequence[str]) -> list[str]:
    """Move `--debug` to the front, wherever it was given: it is an option of `lm` itself."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own, rest = arguments[:end], arguments[end:]
    kept = [argument for argument in own if argument != "--debug"]
    return [*(["--debug"] if len(kept) < len(own) else []), *kept, *rest]


@app.command()
def run(
    recipe: RecipePath = DEMO,
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="STEP", help="Run only this step.")
    ] = None,
    force: Annotated[
        list[str] | None,
        typer.Option("--force", metavar="STEP", help="Run this step even if it is up to date."),
    ] = None,
    wandb: Wandb = False,
    implementation: Implementation = None,
) -> None:
    """Run every step of a recipe that is not up to date."""
    run_named_steps(recipe, only, overrides, force or [], wandb, implementation)


def _add_step_commands() -> UserError | None:
    """Add `lm pretrain` to `app`, and `lm data collect` to the group `data`; return the mistake in
    a step's file, if there is one. Raised here, during an import, it would be a traceback; `main`
    prints it as one line.
    """
    groups = dict(zip(GROUPS, (data_app, tokenizer_app, scaling_app), strict=True))
    try:
        steps = listed_steps()
    except UserError as error:
        return error
    for step in steps:
        *group, command = step.command.split()[1:]
        add_step_command(groups[group[0]] if group else app, command, step.name, step.help)
    return None


MISTAKE_IN_STEPS = _add_step_commands()
tokenizer_commands.register(tokenizer_app)
ablation_commands.register(app)
data_commands.register(data_app)
ablate_command.register(data_app)
compete_command.register(app)


@app.command("steps")
def list_steps(recipe: RecipePath = DEMO) -> None:
    """List the steps of a run in order, each with its command and its artifacts."""
    from rich.console import Console
    from rich.table import Table

    from lm_core.settings import load_settings
    from lm_course.pipeline.plan import plan
    from lm_course.pipeline.recipe import Recipe
    from lm_course.pipeline.step_catalogue import named

    settings = load_settings(Recipe, recipe_file(recipe))
    table = Table("step", "command", "writes", box=None, pad_edge=False)
    for one in plan([named(name) for name in settings.run.steps], settings.sections, Path()):
        written = ", ".join(path.as_posix() for path in one.output_paths)
        table.add_row(one.name, one.step.command, written)
    Console().print(table)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    checkpoint: CheckpointPath = None,
    model: ModelPath = None,
    max_new_tokens: Annotated[int, typer.Option(help="Stop after this many tokens.")] = 100,
    temperature: Annotated[
        float, typer.Option(help="How random the choice of a token is; 0 for greedy decoding.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample from the k likeliest tokens; 0 for all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens with total probability p.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    implementation: Implementation = None,
) -> None:
    """Print the prompt and the model's continuation."""
    set_stand_ins(implementation)
    from inference.sampling import SamplingSettings

    sampling = SamplingSettings(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    engine = model_commands.engine_for(checkpoint, model)
    pieces = engine.stream(prompt, sampling, max_new_tokens)  # refuses before anything is printed
    for piece in itertools.chain([prompt], pieces, ["\n"]):
        sys.stdout.write(piece)
        sys.stdout.flush()


@app.command()
def chat(
    checkpoint: CheckpointPath = None,
    model: ModelPath = None,
    temperature: Annotated[
        float, typer.Option(help="How random the choice of a token is; 0 for greedy decoding.")
    ] = 0.7,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens with total probability p.")
    ] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="End a reply after this many tokens.")] = 120,
    seed: Annotated[int, typer.Option(help="The same seed gives the same replies.")] = 0,
    implementation: Implementation = None,
) -> None:
    """Chat with the aligned model in the terminal."""
    set_stand_ins(implementation)
    from inference.engine.terminal_chat import chat_session
    from inference.sampling import SamplingSettings

    sampling = SamplingSettings(temperature=temperature, top_p=top_p, seed=seed)
    path = model_commands.chosen_model(checkpoint, model)
    if implementation is None:
        engine = model_commands.chat_engine_at(path)
    else:  # the lessons of the stand-ins, one token after the other
        engine = model_commands.engine_at(path)
    chat_session(engine, sampling, max_new_tokens, str(shown(path)))


@scaling_app.command("fit")
def scaling_fit(
    runs: Annotated[
        Path, typer.Argument(help="CSV file with columns N, D, loss (or parameters, tokens, loss).")
    ],
    budget: Annotated[
        float, typer.Option(help="Training FLOPs to split between parameters and tokens.")
    ] = 1e21,
    implementation: Implementation = None,
) -> None:
    """Fit L(N, D) = E + A/N^a + B/D^b to a table of runs, and split a compute budget."""
    set_stand_ins(implementation)
    from lm_course.commands.scaling_table import print_fit

    print_fit(runs, budget)


def _stop(message: str, status: int) -> NoReturn:
    print(f"lm: {message}", file=sys.stderr)
    sys.exit(status)


def _subcommands(context: typer.Context) -> list[str]:
    """Return the words after `lm` that name a command."""
    if context.parent is None:
        return []
    return [*_subcommands(context.parent), str(context.info_name)]


def resumes(arguments: Sequence[str]) -> bool:
    """Return whether a command that was stopped continues where it was when it is called again."""
    words = [word for word in arguments if not word.startswith("-")][:2]
    known = RESUMED | {step.command.removeprefix("lm ") for step in listed_steps()}
    return any(" ".join(words[:number]) in known for number in (1, 2))


def _stop_for(error: BaseException) -> NoReturn:
    """Say in one line what went wrong, whose mistake it is, and where the traceback is."""
    if isinstance(error, StepsFailed):  # its tracebacks are already kept, and shown if wanted
        _stop(str(error), error.status)
    if hasattr(error, "format_message"):  # a usage error, whichever click typer uses
        if not error.format_message():  # no command was given, and the help has been shown
            sys.exit(2)
        context = getattr(error, "ctx", None)
        command = "lm" if context is None else " ".join(["lm", *_subcommands(context)])
        _stop(f"{error.format_message()} (see `{command} --help`)", 2)
    show_traceback(error)
    explanation = explain(error)
    kept_in = None if explanation.whose == "user" else keep_in_temporary_folder(error)
    _stop(explanation.line(kept_in=kept_in), explanation.status)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, and turn every error into one line."""
    signal.signal(signal.SIGINT, Interrupts.take)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if MISTAKE_IN_STEPS is not None:
            raise MISTAKE_IN_STEPS
        status = app(args=debug_first(given), standalone_mode=False)
        if status == INTERRUPTED:  # typer turns Ctrl-C into this
            raise KeyboardInterrupt
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done: too late to stop it
    except (typer.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the message below is already the answer
        message = "stopped"
        if resumes(given):
            message += "; finished work is complete, and the same command resumes from there"
        _stop(message, 0 if Interrupts.saved_after == "SIGTERM" else INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SystemExit as error:
        if explain(error).whose != "learner":  # `lm check` ends with pytest's status
            raise
        _stop_for(error)
    except BaseException as error:  # a panic in Rust, too
        _stop_for(error)
