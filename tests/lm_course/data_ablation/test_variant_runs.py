"""The settings of the runs: what differs between seeds, and what does not between variants."""

from lm_course.data_ablation.variant_runs import settings_of_runs
from training.runs.pretraining import PretrainSettings

MODEL = {"context_length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32}
GIVEN = {"steps": 30, "batch_size": 2, "learning_rate": 1e-2}


def settings(**training: object) -> PretrainSettings:
    model = {**MODEL, "num_kv_heads": 1}
    return PretrainSettings.model_validate({"model": model, "training": {**GIVEN, **training}})


def test_runs_differ_in_their_seed() -> None:
    runs = [settings_of_runs(settings(), seed) for seed in (3, 4)]
    assert [run.training.seed for run in runs] == [3, 4]
    same = [run.training.model_copy(update={"seed": 0}) for run in runs]
    assert same[0] == same[1]
    assert runs[0].training.validate_every == 30
    assert runs[0].model == settings().model


def test_the_precision_is_never_chosen_by_the_speed() -> None:
    assert settings_of_runs(settings(), 0).training.precision == "float32"
    given = settings(precision="bfloat16")
    assert settings_of_runs(given, 0).training.precision == "bfloat16"
