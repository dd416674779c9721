"""A recipe: one TOML file whose sections are the settings of the steps, each class beside the code
that it configures.
"""

import pydantic

from alignment.preference_optimization import DPOSettings
from alignment.supervised_finetuning import SFTSettings
from data_pipeline.executors.document_building import DocumentSettings
from data_pipeline.instructions.instruction_mining import InstructionSettings
from data_pipeline.shard_writing import ShardSettings
from data_pipeline.sources.page_collection import CollectSettings
from evaluation.checkpoint_report import EvaluationSettings
from inference.engine.sample_texts import SampleSettings
from lm_core.settings import Settings
from scaling_laws.small_runs.sweep import SweepSettings
from tokenizer_bpe.merge_training import TokenizerSettings
from training.runs.pretraining import PretrainSettings


class RunSettings(Settings):
    """The `[run]` section: where the artifacts go.

    Attributes:
        name: the run's folder.
        folder: the folder of all runs: in the current folder, or in the root of the checkout for
            whoever is inside it.
    """

    name: str = pydantic.Field(pattern=r"^[\w.-]+$")
    folder: str = "runs"


class PagesSettings(Settings):
    """The `[pages]` section: which pages the documents are made from.

    Attributes:
        warc_files: WARC files of your own; empty takes this machine's Python documentation.
    """

    warc_files: list[str] = pydantic.Field(default_factory=list)


class Recipe(Settings):
    """Every section of a recipe; those with defaults may be left out."""

    run: RunSettings
    pages: PagesSettings = PagesSettings()
    collect: CollectSettings = CollectSettings()
    instructions: InstructionSettings = InstructionSettings()
    documents: DocumentSettings = DocumentSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    shards: ShardSettings = ShardSettings()
    pretrain: PretrainSettings
    sft: SFTSettings
    dpo: DPOSettings
    evaluation: EvaluationSettings = EvaluationSettings()
    samples: SampleSettings = SampleSettings()
    scaling: SweepSettings = SweepSettings()
