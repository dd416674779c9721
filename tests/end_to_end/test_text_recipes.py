"""The recipes that read plain text, each from a tiny text to the report, with smaller models."""

import json
import random
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.engine.engine import Engine
from inference.sampling import SamplingSettings
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.formats.metric_log import read_metrics
from lm_core.formats.token_shards import TokenShards
from lm_core.settings import load_settings
from lm_core.special_tokens import END_OF_TEXT
from lm_course.cli import main
from lm_course.pipeline.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
TEXT_RECIPES = sorted(
    path.stem for path in RECIPES.glob("*.toml") if "text" in load_settings(Recipe, path).run.steps
)
SHRUNK = {
    "pretrain.device": "cpu",
    "pretrain.model.context_length": 32,
    "pretrain.model.d_model": 32,
    "pretrain.model.num_layers": 1,
    "pretrain.model.num_heads": 2,
    "pretrain.model.num_kv_heads": 2,
    "pretrain.model.d_ff": 64,
    "pretrain.training.steps": 4,
    "pretrain.training.warmup_steps": 1,
    "pretrain.training.batch_size": 4,
    "pretrain.training.precision": "float32",
    "pretrain.training.compile": "false",
    "pretrain.training.micro_batches": 1,
    "pretrain.validation_tokens": 200,
    "shards.validation_share": 0.3,
    "samples.max_new_tokens": 8,
}
BPE = {"tokenizer.vocab_size": 300, "tokenizer.num_processes": 1}
WORDS = [
    "the",
    "captain",
    "said",
    "that",
    "a",
    "little",
    "girl",
    "lived",
    "in",
    "Rome,",
    "and",
    "history",
    "was",
    "read",
    "there",
]


def tiny_text(path: Path) -> Path:
    """Write 20 documents of every word and every character that a recipe's prompts hold."""
    random.seed(0)
    recipes = [load_settings(Recipe, RECIPES / f"{name}.toml") for name in TEXT_RECIPES]
    prompts = " ".join(prompt for recipe in recipes for prompt in recipe.samples.prompts)
    documents = [f"{prompts}\n{' '.join(random.choices(WORDS, k=40))}." for _ in range(20)]
    path.write_text(f"\n{END_OF_TEXT}\n".join(documents))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recipe -> the folder of its run."""
    root = tmp_path_factory.mktemp("text_recipes")
    text = tiny_text(root / "text.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in TEXT_RECIPES:
            is_bpe = load_settings(Recipe, RECIPES / f"{name}.toml").tokenizer.kind == "bpe"
            chosen = SHRUNK | (BPE if is_bpe else {}) | {"text.path": text}
            main(["run", name, *(f"--set={key}={value}" for key, value in chosen.items())])
    return {name: root / "runs" / name for name in TEXT_RECIPES}


@pytest.mark.parametrize("name", TEXT_RECIPES)
def test_a_text_becomes_a_report(finished: dict[str, Path], name: str) -> None:
    folder = finished[name]
    assert not (folder / "errors").exists()
    rows = read_metrics(folder / "metrics.jsonl")
    assert rows[-1]["validation_bits_per_byte"] < rows[0]["validation_bits_per_byte"]
    samples = json.loads((folder / "samples.json").read_text())["completions"]
    assert all(sample["text"] for sample in samples)
    assert "Tokenizer" in (folder / "report.html").read_text()


def test_characters_reach_the_checkpoint_and_transformers(finished: dict[str, Path]) -> None:
    folder = finished["shakespeare_char"]
    checkpoint = latest_checkpoint(folder / "checkpoints" / "pretrain")
    engine = Engine.from_checkpoint(checkpoint)
    text = (folder.parents[1] / "text.txt").read_text().replace(f"\n{END_OF_TEXT}\n", "")
    assert engine.model.config.vocab_size == len(set(text)) + 3
    shards = [TokenShards.open(folder / "shards", split) for split in ("train", "validation")]
    content = [shard.read(0, shard.num_tokens) for shard in shards]
    assert (
        engine.tokenizer.decode(content[0]).replace(END_OF_TEXT, "") == text[: int(len(text) * 0.7)]
    )
    theirs = AutoTokenizer.from_pretrained(checkpoint)
    ids = theirs("ROMEO:\n", return_tensors="pt")
    assert ids["input_ids"][0].tolist() == engine.tokenizer.encode("ROMEO:\n")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    greedy = model.generate(**ids, max_new_tokens=8, do_sample=False)[0][7:]
    ours = engine.complete("ROMEO:\n", SamplingSettings(temperature=0), 8)
    assert theirs.decode(greedy) == ours


def test_a_changed_text_is_read_again_and_an_unchanged_one_is_not(
    finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    root = finished["books_10m_cpu"].parents[1]
    monkeypatch.chdir(root)
    command = ["run", "books_10m_cpu", f"--set=text.path={root / 'other.txt'}"]
    command += [f"--set={key}={value}" for key, value in (SHRUNK | BPE).items()]
    command += ["--set=run.name=again", "--only", "text"]
    tiny_text(root / "other.txt")
    main(command)
    assert "20 documents" in capsys.readouterr().out
    main(command)
    assert "up to date" in capsys.readouterr().out
    (root / "other.txt").write_text("one document")
    main(command)
    assert "1 documents" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["text.path=gone.txt"], "gone.txt: no such text file or folder; give another with --set"),
        (
            ["text.dataset=nothing"],
            "no data set 'nothing'; the names are shakespeare, openai_tokenizers, fineweb_edu, "
            "tinystories, wikipedia_LANGUAGE (such as wikipedia_ko), or a URL",
        ),
        (
            ["text.dataset="],
            "[text] names no text: give a file or folder with --set text.path=FILE",
        ),
        (
            ["text.dataset=fineweb_edu"],
            "text.dataset=fineweb_edu: not a text for training, but pages that teach",
        ),
        ([], "data/shakespeare/input.txt: no such file; run `lm data get shakespeare`, or give a"),
        (["tokenizer.vocab_size=300"], 'vocab_size has no effect with kind = "characters"'),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    settings: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LM_DATA", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "text", "shakespeare_char", *(f"--set={setting}" for setting in settings)])
    assert stopped.value.code == 2
    [said] = capsys.readouterr().err.splitlines()
    assert line in said
