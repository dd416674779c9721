"""One number derives a run: the rules by hand, the recipe's own values, and runs that resume."""

from pathlib import Path

import numpy as np
import pytest

from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.formats.token_shards import ShardWriter
from lm_core.settings import load_settings
from lm_core.user_error import UserError
from training.engine.__main__ import EngineRecipe
from training.runs.one_dial import batch_tokens, block_parameters, weight_decay
from training.runs.pretraining import PretrainSettings, pretrain
from transformer_lm.model_config import ModelShape

VOCAB = 32


def dialled(depth: object, **sections: object) -> PretrainSettings:
    return PretrainSettings.model_validate({"depth": depth, **sections})


def test_depth_four_by_hand():
    settings = dialled(4)
    assert settings.model == ModelShape(
        context_length=256,
        d_model=256,
        num_layers=4,
        num_heads=4,
        num_kv_heads=4,
        d_ff=704,  # 8/3 of 256 is 682.7; the next multiple of 64
        tie_embeddings=False,
    )
    parameters = 4 * (4 * 256 * 256 + 3 * 256 * 704)
    assert block_parameters(settings.model) == parameters == 3_211_264
    training = settings.training
    # C = 6 N D = 1.2375e15; 0.292 C^0.3271 is 25,244 tokens, 98.6 sequences, so 128
    assert batch_tokens(parameters, 20 * parameters) == pytest.approx(25_244, rel=1e-4)
    assert training.batch_size == 128
    assert training.steps == 1960  # 64,225,280 tokens in batches of 32,768
    assert training.warmup_steps == 196
    assert training.width_ratio == 1.0
    # tau = 1.084 * 20^-0.527 = 0.2236
    assert training.learning_rate * training.weight_decay * 1960 == pytest.approx(4.473, rel=1e-3)


@pytest.mark.parametrize("depth", [*range(1, 33), 200])
def test_every_depth_is_a_shape_that_fits_and_has_its_tokens(depth):
    settings = dialled(depth, tokens_per_parameter=5.0)
    model, training = settings.model, settings.training
    assert (model.num_layers, model.d_model) == (depth, 64 * depth)
    assert (model.head_dim, model.num_kv_heads) == (64, model.num_heads)
    assert model.d_ff % 64 == 0 and 0 <= model.d_ff - 8 / 3 * model.d_model < 64
    assert training.width_ratio == depth / 4
    tokens = 5 * block_parameters(model)
    step_tokens = training.batch_size * model.context_length
    assert tokens <= training.steps * step_tokens < tokens + step_tokens
    rounding = step_tokens / batch_tokens(block_parameters(model), tokens)
    assert 2**-0.5 <= rounding <= 2**0.5 or training.batch_size == 1


def test_a_deeper_run_has_larger_batches_and_less_decay():
    runs = [dialled(depth).training for depth in (2, 4, 8, 16)]
    assert [run.batch_size for run in runs] == sorted({run.batch_size for run in runs})
    decays = [run.weight_decay for run in runs]
    assert decays == sorted(decays, reverse=True)


def test_what_the_recipe_gives_wins_and_the_rest_follows_from_it():
    model = {"d_model": 512, "num_kv_heads": 2, "context_length": 64, "tie_embeddings": True}
    settings = dialled(2, model=model, training={"batch_size": 4, "learning_rate": 0.01, "seed": 7})
    assert settings.model.model_dump().items() >= model.items()
    assert (settings.model.num_layers, settings.model.num_heads) == (2, 8)
    assert settings.model.d_ff == 1408
    training = settings.training
    assert (training.batch_size, training.learning_rate, training.seed) == (4, 0.01, 7)
    assert training.width_ratio == 2.0
    assert training.steps == -(-20 * block_parameters(settings.model) // (4 * 64))
    assert training.weight_decay == pytest.approx(weight_decay(0.01, training.steps, 20), rel=1e-3)
    steps = dialled(2, training={"steps": 50}).training
    assert (steps.steps, steps.warmup_steps) == (50, 5)


def test_the_decay_of_muon_is_for_its_own_rate():
    adamw, muon = dialled(4).training, dialled(4, training={"optimizer": "muon"}).training
    assert muon.weight_decay * muon.muon_learning_rate == pytest.approx(
        adamw.weight_decay * adamw.learning_rate
    )
    assert muon.muon_learning_rate != muon.learning_rate


def test_a_section_that_is_an_object_already_counts_as_given():
    shape = ModelShape(
        context_length=32, d_model=64, num_layers=3, num_heads=2, num_kv_heads=1, d_ff=64
    )
    given = shape.model_dump(exclude={"tie_embeddings"})
    assert dialled(3, model=shape).model.model_dump().items() >= given.items()
    with pytest.raises(ValueError, match="depth = 2 is the number of layers"):
        dialled(2, model=shape)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("depth = 0", "depth: expected a whole number from 1 to 200, found 0"),
        ("depth = true", "depth: expected a whole number from 1 to 200, found True"),
        ('depth = "4"', "depth: expected a whole number from 1 to 200, found '4'"),
        ("depth = 2.0", "depth: expected a whole number from 1 to 200, found 2.0"),
        ("depth = 201", "depth: expected a whole number from 1 to 200, found 201"),
        ("depth = 2\nmodel = 3", "expected a section, found 3"),
        (
            "depth = 2\n[model]\nnum_layers = 4",
            "depth = 2 is the number of layers, but model.num_l",
        ),
        ("depth = 2\n[model]\nd_modle = 64", "unknown setting d_modle; did you mean d_model?"),
        ("depth = 2\n[model]\nd_ff = 0", "d_ff: input should be greater than 0; found 0"),
        (
            "depth = 2\n[model]\nd_model = 200",
            "model.d_model = 200 is not a multiple of 64, the width of a head",
        ),
        ("depth = 2\n[training]\nsteps = 0", "training.steps: input should be greater than 0"),
        (
            "depth = 2\n[training]\nlerning_rate = 1",
            "unknown setting training.lerning_rate; did you",
        ),
        ("depth = 2\ntokens_per_parameter = 0.0", "tokens_per_parameter: input should be greater"),
        ("tokens_per_parameter = 5.0", "tokens_per_parameter is given without depth"),
    ],
)
def test_a_wrong_value_is_one_clear_line(tmp_path, text, words):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    with pytest.raises(UserError) as raised:
        load_settings(PretrainSettings, recipe)
    assert words in str(raised.value) and "\n" not in str(raised.value)
    assert "more)" not in str(raised.value)


RECIPE = """
depth = 1
device = "cpu"
[model]
d_model = 32
num_heads = 2
context_length = 16
[training]
steps = 12
batch_size = 4
checkpoint_every = 5
precision = "float32"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path / "shards", "a" * 64, VOCAB, np.full(VOCAB, 2)) as writer:
        for split in ("train", "validation"):
            writer.add(split, np.cumsum(generator.integers(0, 3, 400)) % VOCAB)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def run(root: Path, name: str, settings: PretrainSettings, rows: int | None = None):
    class Killed(Exception):
        pass

    class ShortLog(MetricLog):
        def append(self, row: dict) -> None:
            if row["step"] == rows:
                raise Killed
            super().append(row)

    log = ShortLog(root / f"{name}.jsonl", "pretrain")
    try:
        return pretrain(settings, root / "shards", root / name, log)
    except Killed:
        return None


def test_the_engine_of_many_ranks_reads_the_same_depth(root):
    recipe = "[run]\nname = 'x'\n[pretrain]\ndepth = 3\n"
    (root / "engine.toml").write_text(recipe)
    assert load_settings(EngineRecipe, root / "engine.toml").pretrain == dialled(3)


def losses(root: Path, name: str) -> list[float]:
    return [row["loss"] for row in read_metrics(root / f"{name}.jsonl")[1:]]


def test_a_run_with_a_depth_says_so_once_and_resumes_exactly(root, capsys):
    settings = load_settings(PretrainSettings, root / "recipe.toml")
    assert settings.training.width_ratio == 1 / 8
    run(root, "straight", settings)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert line.startswith("depth 1: width 32, 2 heads, d_ff 128, 16,384 parameters in blocks; 768")
    assert "0.0469 per parameter, 1.92 times the training text) in 12 steps of 4 x 16" in line
    assert "learning rate 0.004, of matrices 0.032" in line
    decay = settings.training.weight_decay
    assert line.endswith(f"weight decay {decay:.3g}, of matrices {decay / 8:.3g}\n")

    assert run(root, "killed", settings, rows=8) is None
    # The fingerprint is that of the derived values: a recipe that spells them out is the same run.
    spelled = settings.model_dump(exclude={"depth", "tokens_per_parameter"})
    assert run(root, "killed", PretrainSettings(**spelled)).resumed_from == 5
    assert losses(root, "killed") == losses(root, "straight")
    assert run(root, "killed", settings).resumed_from == 12
    other = load_settings(PretrainSettings, root / "recipe.toml", ["training.width_ratio=1.0"])
    assert run(root, "killed", other).resumed_from is None


def test_the_line_names_the_rates_of_muon(root, capsys):
    changes = ["training.optimizer=muon", "training.steps=1"]
    settings = load_settings(PretrainSettings, root / "recipe.toml", changes)
    run(root, "muon", settings)
    line, decay = capsys.readouterr().out, settings.training.weight_decay
    assert "learning rate 0.008, of the head 0.064, of Muon 0.02," in line
    assert f"weight decay {decay:.3g}, of the head {decay / 8:.3g}\n" in line
