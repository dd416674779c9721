"""Modules that have moved, under the earlier names that learners' files and scripts may use.

The finder is asked last, after Python's own finders have found nothing, so a learner's own module
with such a name comes first. What this leaves out: the modules of lm_course, which nobody imports,
and a module whose name now belongs to a folder (data_pipeline.sources).
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# folder -> the modules that were beside it
MOVED_INTO = {
    "lm_core.formats": "checkpoint_files documents gguf_container metric_log token_shards",
    "tokenizer_bpe.formats": (
        "foreign_parts declared_tokens damaged_files gguf_vocabulary missing_bytes "
        "pattern_dialects pattern_characters unicode_tables"
    ),
    "tokenizer_bpe.templates": "added_tokens jinja_template template_environment",
    "tokenizer_bpe.inspection": "token_display tokenizer_comparison sample_sentences",
    "tokenizer_bpe.inputs": "input_checks text_files",
    "transformer_lm.kernels": (
        "attention_backend matmul_attention flash_attention flash_attention_tiles"
    ),
    "transformer_lm.weights": (
        "config_values empty_model gguf_blocks gguf_file gguf_keys gguf_layout gguf_rope "
        "gpt2_layout llama_layout own_layout pretrained weight_layout"
    ),
    "training.engine": "fused_loss fused_optimizer queued_figures divergence",
    "training.runs": "pretraining run_checkpoints finished_runs ablation",
    "data_pipeline.sources": "warc_files warc_records python_documentation pydoc_child",
    "data_pipeline.instructions": "instruction_mining docstring_answers",
    "data_pipeline.html": "html_tokens page_encoding",
    "data_pipeline.executors": "document_building page_time_limit",
    "inference.engine": "text_side sample_texts terminal_chat",
    "alignment.instruction_data": "instruction_files preference_pairs padded_batches",
    "scaling_laws.small_runs": "sweep runs_csv fit_doubts",
}
EARLIER_NAMES = {
    f"{folder.partition('.')[0]}.{module}": f"{folder}.{module}"
    for folder, modules in MOVED_INTO.items()
    for module in modules.split()
} | {
    "data_pipeline.http_answers": "data_pipeline.sources.http_responses",
    "tokenizer_bpe.implementation": "tokenizer_bpe.compiled.lesson_or_compiled",
}


class EarlierNames(MetaPathFinder, Loader):
    """A finder that returns today's module for an earlier name."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in EARLIER_NAMES else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        sys.modules[name] = import_module(EARLIER_NAMES[name])


sys.meta_path.append(EarlierNames())
