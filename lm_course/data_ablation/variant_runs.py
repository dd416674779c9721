"""The same model trained on every variant's shards, with several seeds, and measured on both
held-out sets.

All runs read equally many tokens; a variant with fewer documents reads them more often. Runs of one
seed start from the same weights. A finished run is kept, so a stopped command continues with the
next one; all variants are trained with one seed before the next seed.

What this leaves out: tuning the learning rate for each variant.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data_pipeline.shard_writing import TRAIN, VALIDATION
from evaluation.checkpoint_report import evaluate_checkpoint
from lm_core.device import pick_device
from lm_core.formats.token_shards import TokenShards
from lm_course.data_ablation.left_out_filters import Variant
from lm_course.data_ablation.variant_shards import COMMAND, UNFILTERED, VariantShards
from lm_course.pipeline.code_hash import code_hashes
from training.runs.finished_runs import RunSeries
from training.runs.pretraining import PretrainSettings

SETS = {"clean": VALIDATION, "unfiltered": UNFILTERED}  # held-out set -> split of the shards
SHOWN_TOKENS = 1024  # of the clean set, before and after training; the result is of the whole sets


def settings_of_runs(settings: PretrainSettings, seed: int) -> PretrainSettings:
    """Return the recipe's settings with a seed. "auto" becomes float32: it measures the speed, and
    could choose differently for two variants.
    """
    training = settings.training
    precision = "float32" if training.precision == "auto" else training.precision
    changes = {"seed": seed, "precision": precision, "validate_every": training.steps}
    training = training.model_copy(update=changes)
    return settings.model_copy(update={"training": training, "validation_tokens": SHOWN_TOKENS})


def measure(shards: Path, settings: PretrainSettings, checkpoint: Path) -> dict[str, float]:
    """Return the bits per byte of a checkpoint on each held-out set."""
    device, batch_size = pick_device(settings.device), settings.training.batch_size
    figures = {}
    for name, split in SETS.items():
        held_out = TokenShards.open(shards, split)
        result = evaluate_checkpoint(checkpoint, held_out, None, batch_size, device)
        figures[name] = result.bits_per_byte
    return figures


def train_variants(
    made: VariantShards, variants: Sequence[Variant], settings: PretrainSettings, num_seeds: int
) -> list[list[dict[str, float]]]:
    """Train the runs that are not finished.

    Args:
        made: the shards of the variants.
        variants: the pipelines.
        settings: of the model and its training.
        num_seeds: runs of each variant, with the seeds from that of the settings on.

    Returns:
        For each variant and seed: {"seed", "clean", "unfiltered"}, in bits per byte.
    """
    results: list[list[dict[str, float]]] = [[] for _ in variants]
    code = code_hashes(evaluate_checkpoint.__module__) | code_hashes(RunSeries.__module__)
    total = num_seeds * len(variants)
    for number in range(num_seeds):
        seed = settings.training.seed + number
        for place, variant in enumerate(variants):
            shards = made.shards_of(variant)
            opened = TokenShards.open(shards, TRAIN)
            series = RunSeries(
                opened, made.folder, COMMAND, code, partial(measure, shards, settings)
            )
            name = f"{variant.name}-seed_{seed}"
            title = f"left out: {variant.left_out}, seed {seed}"
            print(f"run {number * len(variants) + place + 1} of {total}: {title}", flush=True)
            done = series.train_unless_finished(settings_of_runs(settings, seed), name, title)
            results[place].append({"seed": seed, **{each: done[each] for each in SETS}})
    return results
