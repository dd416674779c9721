"""The steps of a run, in order: what each reads, writes and says.

This is the one table that ties settings, packages and artifacts together; the work is done in the
stages. What this leaves
out: when a step is run (recipe_runner.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from lm_core.artifact_paths import RunPaths
from lm_core.user_error import UserError
from lm_course.pipeline import data_steps, model_steps, scaling_step
from lm_course.pipeline.recipe import Recipe
from lm_course.pipeline.recipe_runner import Step

# What ties a stage to the recipe decides as well: which text, which special tokens, which ids.
DATA = ("data_pipeline", "lm_course.pipeline.data_steps")
TOKENIZER = "tokenizer_bpe"
MODEL = ("transformer_lm", "training", "lm_course.pipeline.model_steps")
ALIGNMENT = ("alignment", *MODEL, TOKENIZER)


Outputs = Callable[[RunPaths, Recipe], list[Path]]


def _artifact(name: str) -> Outputs:
    return lambda paths, recipe: [getattr(paths, name)]


def _checkpoints(stage: str) -> Outputs:
    return lambda paths, recipe: [paths.checkpoints(stage)]


STEPS: list[Step] = [
    Step(
        name="collect",
        command="lm data collect",
        sections=("collect", "pages"),
        packages=DATA,
        needs=(),
        outputs=data_steps.warc_files,
        run=data_steps.collect,
        describe=lambda s: f"{s['what']}, {s['bytes'] / 1e6:.1f} MB",
        users_own=lambda recipe: [Path(name) for name in recipe.pages.warc_files],
    ),
    Step(
        name="instructions",
        command="lm data instructions",
        sections=("instructions",),
        packages=DATA,
        needs=(),
        outputs=_artifact("instructions"),
        run=data_steps.instructions,
        describe=lambda s: (
            f"{s['sft_train']:,} answers, {s['preference_train']:,} preference pairs"
        ),
    ),
    Step(
        name="documents",
        command="lm data build",
        sections=("documents",),
        packages=DATA,
        needs=("collect",),
        outputs=_artifact("documents"),
        run=data_steps.documents,
        describe=lambda s: (
            f"{s['documents']:,} of {s['pages']:,} pages kept, {s['bytes'] / 1e6:.1f} MB of text"
        ),
    ),
    Step(
        name="tokenizer",
        command="lm tokenizer train",
        sections=("tokenizer", "shards"),
        packages=(TOKENIZER, *DATA),  # data_pipeline says which documents are for training
        needs=("documents",),
        outputs=lambda paths, recipe: [paths.tokenizer, paths.merges],
        run=data_steps.tokenizer,
        describe=lambda s: f"{s['vocab_size']:,} entries, {s['bytes_per_token']:.2f} bytes a token",
    ),
    Step(
        name="shards",
        command="lm data shard",
        sections=("shards",),
        packages=(*DATA, TOKENIZER),
        needs=("documents", "tokenizer"),
        outputs=_artifact("shards"),
        run=data_steps.shards,
        describe=lambda s: (
            f"{s['train_tokens']:,} training and {s['validation_tokens']:,} validation tokens"
        ),
    ),
    Step(
        name="pretrain",
        command="lm pretrain",
        sections=("pretrain",),
        packages=MODEL,
        needs=("tokenizer", "shards"),
        outputs=_checkpoints("pretrain"),
        run=model_steps.run_pretrain,
        describe=lambda s: (
            f"{s['parameters']:,} parameters, {s['validation_bits_per_byte_before']:.2f} → "
            f"{s['validation_bits_per_byte_after']:.2f} bits per byte, {s['precision']}"
        ),
    ),
    Step(
        name="sft",
        command="lm sft",
        sections=("sft",),
        packages=ALIGNMENT,
        needs=("instructions", "tokenizer", "pretrain"),
        outputs=_checkpoints("sft"),
        run=model_steps.run_finetuning,
        describe=lambda s: (
            f"held-out answers {s['heldout_loss_before']:.2f} → {s['heldout_loss_after']:.2f} nats"
        ),
    ),
    Step(
        name="dpo",
        command="lm dpo",
        sections=("dpo",),
        packages=ALIGNMENT,
        needs=("instructions", "tokenizer", "sft"),
        outputs=_checkpoints("dpo"),
        run=model_steps.run_preference,
        describe=lambda s: (
            f"held-out pairs ranked rightly {s['heldout_ranking_before']:.1%} → "
            f"{s['heldout_ranking_after']:.1%}"
        ),
    ),
    Step(
        name="evaluation",
        command="lm eval",
        sections=("evaluation",),
        packages=("evaluation", *MODEL),
        needs=("tokenizer", "shards", "pretrain"),
        uses=("sft", "dpo"),
        outputs=_artifact("evaluation"),
        run=model_steps.evaluate,
        describe=lambda s: f"{s['checkpoints']} checkpoints, best {s['best']:.3f} bits per byte",
    ),
    Step(
        name="samples",
        command="lm run --only samples",
        sections=("samples",),
        packages=("inference", "transformer_lm", "lm_course.pipeline.model_steps", TOKENIZER),
        needs=("pretrain",),
        uses=("sft", "dpo"),
        outputs=_artifact("samples"),
        run=model_steps.sample,
        describe=lambda s: f"{s['completions']} continuations, {s['questions']} questions answered",
    ),
    Step(
        name="scaling",
        command="lm scaling sweep",
        sections=("scaling",),
        packages=("scaling_laws", "lm_course.pipeline.scaling_step", *MODEL),
        needs=("tokenizer", "shards", "pretrain"),
        outputs=_artifact("scaling"),
        run=scaling_step.scaling,
        describe=scaling_step.describe_scaling,
    ),
    Step(
        name="report",
        command="lm report",
        sections=(),
        packages=("lm_course.report.report_page", "lm_course.report.report_plots"),
        needs=(),  # it is written whatever failed, and says so
        uses=(
            "collect", "instructions", "documents", "tokenizer", "shards", "pretrain", "sft", "dpo",
            "evaluation", "samples", "scaling",
        ),
        outputs=_artifact("report"),
        run=model_steps.report,
        describe=lambda s: f"open {s['path']} in a browser",
    ),
]  # fmt: skip


def steps_named(names: Sequence[str]) -> list[Step]:
    """The steps with these names, in the order of the table.

    Raises:
        ValueError: a name is not a step's.
    """
    known = [step.name for step in STEPS]
    for name in names:
        if name not in known:
            raise UserError(f"no step {name!r}; the steps are {', '.join(known)}")
    return [step for step in STEPS if step.name in names]


def steps_to_run(names: Sequence[str], recipe: Recipe) -> list[Step]:
    """The steps with these names, and before them those they need that only look at files of the
    user's: `lm data build` on one's own WARC files does not ask for `lm data collect`.
    """
    needed = {name for step in steps_named(names) for name in step.needs}
    looks = [step.name for step in STEPS if step.name in needed and step.users_own(recipe)]
    return steps_named([*names, *looks])
