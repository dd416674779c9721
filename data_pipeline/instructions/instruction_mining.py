"""Questions and answers for fine-tuning, and better-worse pairs for preferences, from the
docstrings of this machine.

The standard library and the installed packages explain tens of thousands of names in one sentence
each: real instruction data without a download. A preference pair contrasts the right answer with
the answer for another name nearby, of similar length, so that length does not give the right one
away. The training and held-out parts share no name and no answer.

What this leaves out: freely worded questions, conversations of several turns, answers checked by a
person.
"""

import json
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from data_pipeline.instructions.docstring_answers import (
    Pair,
    name_hash,
    pairs_in_file,
    question_about,
)
from data_pipeline.sources.python_documentation import is_public_module, spread_evenly
from lm_core.artifact_paths import atomic_folder
from lm_core.progress import progress_bar
from lm_core.settings import Settings
from lm_core.user_error import UserError
from lm_core.worker_pool import worker_pool

VENDORED_PARTS = frozenset(
    {"vendor", "vendored", "extern", "third_party", "thirdparty", "bundled", "conftest", "setup"}
)
STANDARD_LIBRARY = "standard library"
NEAREST_IN_LENGTH = 3  # candidates for a rejected answer, so that it is not always the same
MAX_LENGTH_RATIO = 1.5  # between the two answers of a preference pair


class InstructionSettings(Settings):
    """Which docstrings become instruction data.

    Attributes:
        min_answer_characters: shorter answers are left out.
        max_answer_characters: longer answers are left out.
        max_packages: 0 means all; fewer, spread evenly, for a quick try.
        max_pairs_per_package: most pairs from one package, so that a large one does not
            dominate.
        heldout_share: expected share of the pairs that is held out.
        include_installed_packages: False: the standard library only.
        num_processes: that read source files; does not change the output.
    """

    min_answer_characters: int = Field(default=20, ge=1)
    max_answer_characters: int = Field(default=400, ge=20)
    max_packages: int = Field(default=0, ge=0)
    max_pairs_per_package: int = Field(default=300, ge=1)
    heldout_share: float = Field(default=0.05, gt=0, lt=1)
    include_installed_packages: bool = True
    num_processes: int = Field(default=2, ge=1)


@dataclass(frozen=True)
class Package:
    """The source files of one top-level name: (file, module name), in reading order."""

    name: str
    files: tuple[tuple[Path, str], ...]
    max_pairs: int


def _module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_wanted(module: str) -> bool:
    parts = module.split(".")
    return (
        bool(module)
        and is_public_module(module)
        and all(part.isidentifier() for part in parts)
        and not (VENDORED_PARTS.intersection(parts))
    )


def find_packages(root: Path, max_pairs: int, names: Iterable[str] | None = None) -> list[Package]:
    """Return the top-level packages and modules under a folder, sorted by name.

    Files are ordered by the hash of their module name, so that a cap takes a sample of the whole
    package. If `names` is given, only these are returned.
    """
    wanted = None if names is None else set(names)
    packages = []
    for entry in sorted(root.iterdir()) if root.is_dir() else []:
        name = entry.stem if entry.suffix == ".py" else entry.name
        if not _is_wanted(name) or (wanted is not None and name not in wanted):
            continue
        paths = entry.rglob("*.py") if entry.is_dir() else [entry] if entry.suffix == ".py" else []
        files = [(path, _module_name(path.relative_to(root))) for path in paths]
        files = [(path, module) for path, module in files if _is_wanted(module)]
        if files:
            ordered = sorted(files, key=lambda file: (name_hash(file[1]), file[1]))
            packages.append(Package(name, tuple(ordered), max_pairs))
    return packages


def installed_packages(settings: InstructionSettings) -> list[Package]:
    """Return every package of the standard library (without a cap) and, if the settings ask for it,
    of this installation's site-packages; or the `max_packages` that are asked for.
    """
    no_cap = sys.maxsize
    packages = find_packages(Path(sysconfig.get_path("stdlib")), no_cap, sys.stdlib_module_names)
    if settings.include_installed_packages:
        for folder in dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]):
            packages += find_packages(Path(folder), settings.max_pairs_per_package)
    return spread_evenly(packages, settings.max_packages)


def mine_package(package: Package, settings: InstructionSettings) -> tuple[list[Pair], int, int]:
    """Return (pairs up to the package's cap, files read, files that do not parse)."""
    pairs: list[Pair] = []
    read = broken = 0
    for path, module in package.files:
        if len(pairs) >= package.max_pairs:
            break
        read += 1
        try:
            pairs += pairs_in_file(
                path, module, settings.min_answer_characters, settings.max_answer_characters
            )
        except (SyntaxError, ValueError, RecursionError):
            broken += 1
    return sorted(pairs, key=_hash_order)[: package.max_pairs], read, broken


def _hash_order(pair: Pair) -> tuple[int, str]:
    return name_hash(pair.name), pair.name


def distinct_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """Sort pairs by the hash of their names; of pairs with the same name or the same answer, keep
    the first.
    """
    seen: set[str] = set()
    kept = []
    for pair in sorted(pairs, key=_hash_order):
        keys = {f"name {pair.name}", f"answer {pair.answer.lower()}"}
        if not keys & seen:
            seen |= keys
            kept.append(pair)
    return kept


def is_held_out(pair: Pair, share: float) -> bool:
    """Decide by the name's hash alone: a name stays in its part, whatever else is installed."""
    return name_hash(f"held out {pair.name}") < share * 2**64


def instruction_row(pair: Pair) -> dict[str, Any]:
    """Return a row of sft_*.jsonl."""
    messages = [
        {"role": "user", "content": question_about(pair)},
        {"role": "assistant", "content": pair.answer},
    ]
    return {"id": pair.name, "messages": messages}


def wrong_answer(pair: Pair, others: Iterable[Pair]) -> str | None:
    """Return the answer for another name: one of the NEAREST_IN_LENGTH, chosen by hash.

    None if fewer than that many of `others` have an answer of similar length.
    """
    length = len(pair.answer)
    similar = [
        other
        for other in others
        if other.name != pair.name
        and length <= MAX_LENGTH_RATIO * len(other.answer) <= MAX_LENGTH_RATIO**2 * length
    ]
    if len(similar) < NEAREST_IN_LENGTH:
        return None
    similar.sort(key=lambda other: (abs(len(other.answer) - length), _hash_order(other)))
    return similar[name_hash(f"rejected for {pair.name}") % NEAREST_IN_LENGTH].answer


def preference_rows(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Return the rows of preference_*.jsonl: the right answer against a wrong one, both from
    `pairs`.

    The wrong answer comes from the same module; if that has too few of similar length, from the
    same package; else from anywhere. `rejected_from` says which.
    """
    by_module: defaultdict[str, list[Pair]] = defaultdict(list)
    by_package: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_module[pair.module].append(pair)
        by_package[pair.module.partition(".")[0]].append(pair)
    rows = []
    for pair in pairs:
        package = by_package[pair.module.partition(".")[0]]
        places = {"module": by_module[pair.module], "package": package, "anywhere": pairs}
        for place, others in places.items():
            rejected = wrong_answer(pair, others)
            if rejected is not None:
                prompt = [{"role": "user", "content": question_about(pair)}]
                texts = {"prompt": prompt, "chosen": pair.answer, "rejected": rejected}
                rows.append({"id": pair.name, **texts, "rejected_from": place})
                break
    return rows


def _mine_all(
    packages: list[Package], settings: InstructionSettings
) -> tuple[list[Pair], Counter[str]]:
    pairs: list[Pair] = []
    counts: Counter[str] = Counter()
    mine = partial(mine_package, settings=settings)
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar("read docstrings", len(packages), "packages"))
        if settings.num_processes == 1:
            results: Iterable[tuple[list[Pair], int, int]] = map(mine, packages)
        else:
            pool = stack.enter_context(worker_pool(settings.num_processes))
            results = pool.map(mine, packages)
        for found, read, broken in results:
            pairs += found
            counts.update({"files_read": read, "files_that_do_not_parse": broken})
            bar.advance(note=f"{len(pairs):,} pairs")
    return pairs, counts


def mine_instructions(out_folder: Path, settings: InstructionSettings) -> dict[str, Any]:
    """Write sft_train.jsonl, sft_heldout.jsonl, preference_train.jsonl and
    preference_heldout.jsonl, either all of them or none.

    Returns the counts. Raises ValueError if a file would be empty.
    """
    packages = installed_packages(settings)
    found, counts = _mine_all(packages, settings)
    pairs = distinct_pairs(found)
    train = [pair for pair in pairs if not is_held_out(pair, settings.heldout_share)]
    heldout = [pair for pair in pairs if is_held_out(pair, settings.heldout_share)]
    files = {
        "sft_train": [instruction_row(pair) for pair in train],
        "sft_heldout": [instruction_row(pair) for pair in heldout],
        "preference_train": preference_rows(train),
        "preference_heldout": preference_rows(heldout),
    }
    for name, rows in files.items():
        if not rows:
            raise UserError(
                f"{name}.jsonl would be empty: {len(pairs)} pairs from "
                f"{counts['files_read']} source files; "
                "change heldout_share, the answer lengths or max_packages"
            )
    with atomic_folder(out_folder) as folder:
        for name, rows in files.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(lines, "utf-8", newline="\n")
    return {
        "packages": len(packages),
        **counts,
        "pairs_found": len(found),
        "repeated_names_or_answers": len(found) - len(pairs),
        **{name: len(rows) for name, rows in files.items()},
        **{
            f"{name}_rejected_from": dict(Counter(row["rejected_from"] for row in files[name]))
            for name in ("preference_train", "preference_heldout")
        },
    }
