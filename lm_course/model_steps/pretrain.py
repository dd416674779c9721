"""The step `pretrain`: train a language model on the shards, in one process.

The section [parallel] is for `torchrun -m training.engine RECIPE`, which trains the same on many
ranks.
"""

from typing import Any

from alignment.supervised_finetuning import training_figures
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.special_tokens import END_OF_TEXT
from lm_course.model_steps.checkpoint_companions import companions
from lm_course.pipeline.step import Step, StepContext
from scaling_laws.compute_budget import multiplied_parameters
from tokenizer_bpe.characters.either_kind import read_tokenizer, tokenizer_hash
from training.engine.parallelism import ParallelSettings
from training.runs.pretraining import PretrainSettings, pretrain
from transformer_lm.model_cost import count_parameters
from transformer_lm.weights.pretrained import load_model


def run_pretrain(context: StepContext) -> dict[str, Any]:
    """Train a new model."""
    folder, tokenizer_file = context.output("checkpoints/pretrain"), context.input("tokenizer")
    summary = pretrain(
        context.settings,
        context.input("shards"),
        folder,
        context.metrics(),
        tokenizer_hash=tokenizer_hash(tokenizer_file),
        code=context.code,
        **companions(read_tokenizer(tokenizer_file), END_OF_TEXT),
    )
    config = load_model(latest_checkpoint(folder)).config
    return {
        "parameters": count_parameters(config),
        "multiplied_parameters": multiplied_parameters(config),
        "optimizer": context.settings.training.optimizer,
        **training_figures(summary),
    }


STEP = Step(
    name="pretrain",
    command="lm pretrain",
    help="Train the model to predict the next token.",
    run=run_pretrain,
    describe=lambda s: (
        f"{s['parameters']:,} parameters, {s['validation_bits_per_byte_before']:.2f} → "
        f"{s['validation_bits_per_byte_after']:.2f} bits per byte, {s['precision']}"
    ),
    settings={"pretrain": PretrainSettings, "parallel": ParallelSettings},
    reads=("tokenizer", "shards"),
    writes=("checkpoints/pretrain",),
)
