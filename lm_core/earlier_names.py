"""Given modules that have moved: learners' files name them where they were when `lm start` wrote
them, and go on working.

The finder is asked last, after Python's own have found nothing, so a learner's own module of such a
name is theirs. What this leaves out: every other module that moved.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

EARLIER_NAMES = {
    "tokenizer_bpe.added_tokens": "tokenizer_bpe.templates.added_tokens",
    "tokenizer_bpe.damaged_files": "tokenizer_bpe.formats.damaged_files",
    "tokenizer_bpe.declared_tokens": "tokenizer_bpe.formats.declared_tokens",
    "tokenizer_bpe.foreign_parts": "tokenizer_bpe.formats.foreign_parts",
    "tokenizer_bpe.input_checks": "tokenizer_bpe.inputs.input_checks",
    "tokenizer_bpe.missing_bytes": "tokenizer_bpe.formats.missing_bytes",
    "tokenizer_bpe.pattern_dialects": "tokenizer_bpe.formats.pattern_dialects",
    "tokenizer_bpe.text_files": "tokenizer_bpe.inputs.text_files",
    "tokenizer_bpe.unicode_tables": "tokenizer_bpe.formats.unicode_tables",
    "transformer_lm.attention_backend": "transformer_lm.kernels.attention_backend",
    "transformer_lm.matmul_attention": "transformer_lm.kernels.matmul_attention",
}


class EarlierNames(MetaPathFinder, Loader):
    """Gives the module of today for a name of before."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in EARLIER_NAMES else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        sys.modules[name] = import_module(EARLIER_NAMES[name])


sys.meta_path.append(EarlierNames())
