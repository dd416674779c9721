"""`lm doctor`: its tables, its exit status, and wrong input."""

import re

import pytest
import torch

from lm_course.cli import main
from lm_course.machine_check import trusted_numbers
from lm_course.machine_check.doctor_command import likely_cause
from lm_course.machine_check.trusted_numbers import NumberCheck

QUICK = ["--set", "pretrain.training.precision=float32"]


def status_of(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", *arguments])
    return stopped.value.code


@pytest.fixture(autouse=True)
def _small_products(monkeypatch):
    """The measured rate of a product is checked elsewhere."""
    from training.engine import step_statistics

    monkeypatch.setattr(step_statistics, "PRODUCT_SIZES", {"cpu": 64})
    step_statistics.product_flops_per_second.cache_clear()
    yield
    step_statistics.product_flops_per_second.cache_clear()


def test_all_is_well(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    main(["doctor", *QUICK])
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith("All is well.")
    assert max(map(len, printed.splitlines())) <= 60
    for text in (torch.__version__, "float32 (set in the recipe)", "GFLOP/s", "fused kernel"):
        assert text in printed


def test_a_device_with_a_wrong_product(capsys, monkeypatch):
    def wrong(first, second):
        right = torch.matmul(first, second)
        return right * 1.001 if first.dtype == torch.float32 else right

    monkeypatch.setattr(torch.Tensor, "__matmul__", wrong)
    assert status_of(QUICK) == 1
    printed = capsys.readouterr().out
    assert "float32: the product of two matrices is wrong" in printed
    assert "wrong gradient: blocks." in printed
    assert printed.rstrip().endswith("do not trust float32 on this device")


def test_a_recipe_that_does_not_fit(capsys):
    large = ["recipes/demo_cpu.toml", "--set", "pretrain.model.d_ff=40000000"]
    assert status_of(large) == 1
    printed = capsys.readouterr().out
    assert "does NOT fit" in printed
    assert "demo_cpu.toml does not fit into one device's memory" in printed


def test_wrong_input(capsys):
    assert status_of(["nothing"]) == 2
    assert "nothing: no such recipe" in capsys.readouterr().err
    assert status_of(["--device", "tpu"]) == 2
    assert "device 'tpu' is unknown" in capsys.readouterr().err
    assert status_of(["--set", "pretrain.device=tpu"]) == 2
    assert "device 'tpu' is unknown" in capsys.readouterr().err


def test_a_recipe_that_trains_nothing(tmp_path, capsys):
    path = tmp_path / "pages.toml"
    path.write_text('[run]\nname = "pages"\nsteps = ["collect", "documents"]\n')
    assert status_of([str(path)]) == 2
    assert "pages.toml has no [pretrain]" in capsys.readouterr().err


def test_a_recipe_for_another_device(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main(["doctor", "recipes/demo_cpu.toml", "--set", "pretrain.device=cuda", *QUICK])
    assert "cuda, which is not here; cpu is checked" in " ".join(capsys.readouterr().out.split())
    assert status_of(["--device", "cuda"]) == 2


@pytest.mark.parametrize(
    ("data", "share"),
    [
        ("fsdp", "each of N needs about 1/N"),
        ("ddp", r"each of N needs [\d,.]+ GB and 1/N of the rest"),
    ],
)
def test_a_recipe_for_many_ranks(data, share, capsys):
    """The memory of a rank depends on their number, so that of this device decides nothing."""
    large = ["recipes/demo_cpu.toml", "--set", "pretrain.model.d_ff=40000000"]
    status_of([*large, "--set", f"parallel.data={data}", *QUICK])
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"GB predicted without other ranks; {share}", printed)
    assert "does not fit into one device's memory" not in printed


@pytest.mark.parametrize(
    ("errors", "device", "words"),
    [
        ((5e-4, 1.0, 1.0, 1.0), "cuda", "rounded to TF32"),
        ((5e-2, 1.0, 1.0, 1.0), "cuda", "product of two matrices is wrong"),
        ((5e-4, 1.0, 1.0, 1.0), "cpu", "product of two matrices is wrong"),
        ((0.0, float("nan"), 1.0, 1.0), "cpu", "the forward pass is not"),
        ((0.0, 0.0, 1.0, 1.0), "cpu", "the loss is not"),
        ((0.0, 0.0, 0.0, 1.0), "cpu", "only gradients are wrong"),
    ],
)
def test_likely_causes(errors, device, words):
    check = NumberCheck("float32", *errors, ("blocks.0.attention.query.weight",), 1e-6)
    assert words in likely_cause(check, torch.device(device))


DEMO = ["recipes/demo_cpu.toml"]


@pytest.mark.parametrize(
    ("missing", "arguments", "last", "status"),
    [
        ("float32", [], "do not trust float32 on this device", 1),
        ("bfloat16", [], "All is well in float32.", 0),
        ("bfloat16", DEMO, "set pretrain.training.precision to float32", 1),
        ("bfloat16", [*DEMO, *QUICK], "All is well in float32.", 0),
    ],
)
def test_a_type_that_does_not_run(missing, arguments, last, status, capsys, monkeypatch):
    right = NumberCheck("", 0.0, 0.0, 0.0, 0.0, (), 1e-6)

    def checks(_):
        for name in ("float32", "bfloat16"):
            failure = "no kernel image" if name == missing else None
            yield right._replace(dtype=name, failure=failure)

    monkeypatch.setattr(trusted_numbers, "number_checks", checks)
    if status == 0:
        main(["doctor", *arguments])
    else:
        assert status_of(arguments) == status
    printed = capsys.readouterr().out
    assert f"{missing} does not run here: no kernel image" in printed
    assert printed.rstrip().endswith(last)
    assert "bfloat16 products" not in printed
    assert ("Pretraining" in printed) == (missing != "float32"), "nothing more can run"


def test_a_wrong_type_is_not_used(capsys, monkeypatch):
    def checks(_):
        yield NumberCheck("float32", 0.0, 0.0, 0.0, 0.0, (), 1e-6)
        yield NumberCheck("bfloat16", 1.0, 1.0, 1.0, 1.0, (), 1e-2)

    monkeypatch.setattr(trusted_numbers, "number_checks", checks)
    assert status_of([]) == 1
    printed = capsys.readouterr().out
    assert "bfloat16 products" not in printed
    last = "do not trust bfloat16 on this device; set pretrain.training.precision to float32"
    assert " ".join(printed.split()).endswith(last)
