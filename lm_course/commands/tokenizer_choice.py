"""The tokenizer to use: given as a file, a folder or a run's name, or else that of runs/demo.

What this leaves out: reading the formats (`tokenizer_bpe.tokenizer_file`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from lm_core.artifact_paths import RunPaths, read_json
from lm_core.user_error import UserError
from lm_course.locations import in_home

if TYPE_CHECKING:
    from tokenizer_bpe.characters.either_kind import EitherKind
    from tokenizer_bpe.tokenizer import Tokenizer

RUNS = "runs"
DEFAULT_RUN = "runs/demo"
RANKS_SUFFIX = ".tiktoken"


def tokenizer_path(given: Path | None, otherwise: str = "with --tokenizer") -> Path:
    """Return the tokenizer file to read.

    Args:
        given: a tokenizer.json, a folder that holds one, a .tiktoken file, or the name of a run;
            None for the tokenizer of runs/demo.
        otherwise: how to name another tokenizer, for the message.

    Raises:
        ValueError: there is no tokenizer.
    """
    path = given or in_home(DEFAULT_RUN)
    if len(path.parts) == 1 and not path.exists() and (in_home(RUNS) / path).is_dir():
        path = in_home(RUNS) / path
    file = path if path.suffix in (".json", RANKS_SUFFIX) else RunPaths(path).tokenizer
    if path.is_file():
        return path
    if not file.is_file():
        is_name = len(path.parts) == 1 and not path.exists() and not path.suffix
        where = (
            f"{path}: no such file or folder, and no such run in {in_home(RUNS)}/"
            if is_name
            else f"{file}"
        )
        raise UserError(
            f"{where}: no tokenizer there; make one with `lm run recipes/demo_cpu.toml`, "
            f"or name another {otherwise}"
        )
    return file


def held_out_text(given: Path, num_bytes: int) -> str:
    """Return the first `num_bytes`, or somewhat more, of the validation documents of a run.

    Args:
        given: the run's folder or its name.
        num_bytes: where to stop.

    Raises:
        ValueError: the run has no documents, or none of them is for validation.
    """
    from data_pipeline.shard_writing import VALIDATION, ShardSettings, split_documents

    path = given
    if len(path.parts) == 1 and not path.exists():
        path = in_home(RUNS) / path
    run = RunPaths(path)
    if not run.documents.is_dir():
        raise UserError(f"{given}: this run has no documents; `ls {RUNS}` lists the runs")
    settings = ShardSettings(
        **read_json(run.settings, "the settings of a run", "`lm run RECIPE`").get("shards", {})
    )
    texts: list[str] = []
    left = num_bytes
    for split, document, _ in split_documents(run.documents, settings):
        if split == VALIDATION and left > 0:
            texts.append(document.text)
            left -= len(document.text.encode())
    if not texts:
        raise UserError(f"{given}: none of its documents is for validation; use --file")
    return "\n\n".join(texts)


def chosen_tokenizer(given: Path | None, pattern: str | None) -> "EitherKind":
    """Read the tokenizer at `tokenizer_path(given)`.

    Args:
        given: see `tokenizer_path`.
        pattern: for a .tiktoken file, which has none: a key of RANK_PATTERNS; None for that of the
            encoding after which the file is named, or else "gpt2".

    Raises:
        ValueError: there is no tokenizer, the file is not one, or the pattern is unknown or not
            needed.
    """
    from tokenizer_bpe.characters.either_kind import read_tokenizer
    from tokenizer_bpe.formats.tiktoken_patterns import RANK_PATTERNS, name_of_pattern
    from tokenizer_bpe.tokenizer import Tokenizer

    path = tokenizer_path(given)
    if pattern is not None and pattern not in RANK_PATTERNS:
        raise UserError(f"--pattern {pattern}: expected gpt2, gpt4 or o200k")
    if path.suffix == RANKS_SUFFIX:
        name = pattern or name_of_pattern(path)
        return Tokenizer.from_tiktoken_ranks(path, pattern=RANK_PATTERNS[name])
    if pattern is not None:
        raise UserError(f"--pattern is only for {RANKS_SUFFIX} files; {path} has its own pattern")
    return read_tokenizer(path)


def chosen_bpe(given: Path | None, pattern: str | None) -> "Tokenizer":
    """Read a tokenizer as `chosen_tokenizer` does, for a command that needs byte-level BPE.

    Raises ValueError also if the tokenizer has one token for each character.
    """
    from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer

    found = chosen_tokenizer(given, pattern)
    if isinstance(found, CharacterTokenizer):
        raise UserError(
            f"{tokenizer_path(given)}: expected byte-level BPE, found one token for each "
            "character; name another tokenizer"
        )
    return found
