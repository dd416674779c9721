"""One shrunk run of recipes/demo_cpu.toml, through the `lm` command, shared by every test here."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from preloaded_python import Program

from lm_core.artifact_paths import file_sha256

PROJECT = Path(__file__).parents[2]
RECIPE = PROJECT / "recipes" / "demo_cpu.toml"
LM = ("-m", "lm_course")
SHRUNK = {
    "collect.max_modules": 80,
    "collect.include_readmes": "false",
    "instructions.include_installed_packages": "false",
    "instructions.max_packages": 60,
    "tokenizer.vocab_size": 1024,
    "pretrain.model.d_model": 64,
    "pretrain.model.num_layers": 2,
    "pretrain.model.num_heads": 4,
    "pretrain.model.num_kv_heads": 2,
    "pretrain.model.d_ff": 176,
    "pretrain.model.context_length": 128,
    "pretrain.training.steps": 120,
    "pretrain.training.batch_size": 4,
    "pretrain.training.precision": "float32",  # "auto" measures both first
    "pretrain.training.warmup_steps": 10,
    "pretrain.training.checkpoint_every": 60,
    "pretrain.training.validate_every": 60,
    "sft.max_tokens": 128,
    "sft.training.steps": 60,
    "sft.training.batch_size": 8,
    "sft.training.precision": "float32",
    "sft.training.warmup_steps": 5,
    "dpo.max_tokens": 128,
    "dpo.training.steps": 20,
    "dpo.training.batch_size": 8,
    "dpo.training.precision": "float32",
    "dpo.training.warmup_steps": 5,
    "scaling.bootstraps": 10,
    "scaling.precision": "float32",
    "scaling.context_length": 128,
    "scaling.token_budgets": "[4_000, 8_000, 16_000]",
    "scaling.sizes": (
        "[{d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=48},"
        " {d_model=32, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=96},"
        " {d_model=64, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=176}]"
    ),
}


@dataclass(frozen=True)
class ShrunkRun:
    """Where the run lies, and how to call `lm` on it again."""

    folder: Path
    overrides: list[str]

    @property
    def working_folder(self) -> Path:
        """The folder above runs/, in which a person types `lm`."""
        return self.folder.parent.parent

    def start(self, *arguments: str, program: tuple[str, ...] = LM) -> Program:
        """Start `lm` in the folder above runs/, in a process group of its own.

        `program` is what Python is to run in its place, such as ("-c", code).
        """
        kept = {key: value for key, value in os.environ.items() if not key.startswith("LM_")}
        # Two threads on a tiny model wait for each other more than they work.
        environment = {**kept, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
        return Program([*program, *arguments], self.working_folder, environment)

    def lm(
        self, *arguments: str, program: tuple[str, ...] = LM
    ) -> subprocess.CompletedProcess[str]:
        """Run `lm`, or another program, to its end."""
        process = self.start(*arguments, program=program)
        output, error = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, output, error)

    def lm_recipe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `lm COMMAND RECIPE` with this run's shrunk settings."""
        return self.lm(*self.with_recipe(*arguments))

    def with_recipe(self, *arguments: str) -> list[str]:
        return [arguments[0], str(RECIPE), *self.overrides, *arguments[1:]]

    def hashes(self, *left_out: str) -> dict[str, str]:
        """File -> SHA-256, of every file of the run, at any depth, but those named."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        names = {path.relative_to(self.folder).as_posix(): path for path in files}
        return {name: file_sha256(path) for name, path in names.items() if name not in left_out}

    def copy(self, root: Path) -> "ShrunkRun":
        """The same run, finished, under another root."""
        run = ShrunkRun(root / "runs" / "demo", self.overrides)
        shutil.copytree(self.folder, run.folder)
        return run


@pytest.fixture(scope="session")
def shrunk_run(tmp_path_factory: pytest.TempPathFactory) -> ShrunkRun:
    root = tmp_path_factory.mktemp("end_to_end")
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # a second process would make it again
        marker = tmp_path_factory.getbasetemp().parent / "shrunk_run"
        if marker.exists():
            pytest.fail(
                f"{marker.read_text()} has made the shrunk run already: it has crashed, or "
                "tests/conftest.py no longer keeps these tests in one process"
            )
        marker.write_text(worker)
    overrides = [f"--set={key}={value}" for key, value in SHRUNK.items()]
    run = ShrunkRun(root / "runs" / "demo", overrides)
    done = run.lm_recipe("run")
    assert done.returncode == 0, done.stdout + done.stderr
    return run
