"""Entries: what may be one, and what is refused before anything is trained."""

from pathlib import Path

import pytest

from lm_core.user_error import UserError
from lm_course.competition.entries import default_entries, load_entries


def file(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_default_entries_differ_in_what_they_say() -> None:
    assert default_entries() == ["adamw", "many_epochs", "muon"]
    adamw, epochs, muon = load_entries(default_entries())
    assert (adamw.name, epochs.name, muon.name) == ("adamw", "many_epochs", "muon")
    assert muon.sections["pretrain"].training.optimizer == "muon"
    assert epochs.sections["shards"].training_share == 0.02
    assert adamw.sections["shards"].training_share == 1.0
    assert {each.tokens_per_step for each in (adamw, epochs, muon)} == {4 * 256}
    assert {each.stand_ins for each in (adamw, epochs, muon)} == {None}


def test_a_whole_recipe_is_an_entry_by_its_training() -> None:
    [whole, _] = load_entries(["recipes/shakespeare_char.toml", "muon"], ["text.path=x.txt"])
    assert whole.name == "shakespeare_char"
    assert whole.sections["pretrain"].training.validate_every == 155
    assert whole.sections["text"].path == "x.txt"
    assert len(whole.sections["samples"].prompts) == 3  # those of the competition


def test_a_folder_replaces_files_and_may_have_settings(tmp_path: Path) -> None:
    file(tmp_path / "mine/training/loss.py", "")
    file(tmp_path / "yours/training/loss.py", "")
    file(tmp_path / "yours/best_verse.toml", "[pretrain.training]\nlearning_rate = 1e-2")
    mine, yours = load_entries([str(tmp_path / "mine"), str(tmp_path / "yours")])
    assert (mine.name, mine.stand_ins) == ("mine", tmp_path / "mine")
    assert mine.sections["pretrain"].training.learning_rate == 3e-3
    assert yours.sections["pretrain"].training.learning_rate == 1e-2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[tokenizer]\nkind = "bpe"', "tokenizer.kind is 'bpe'"),
        ("[tokenizer]\nvocab_size = 4096", "the tokenizer of every entry are those of recipes/"),
        ('[text]\ndataset = "other"', "text.dataset is 'other'"),
        ("[shards]\nvalidation_share = 0.2", "shards.validation_share is 0.2"),
        ('[pretrain]\ndevice = "auto"', "pretrain.device is 'auto', but 'cpu' in recipes/"),
        (
            "[pretrain]\nvalidation_tokens = 1000",
            "pretrain.validation_tokens is 1000, but 32768 in",
        ),
        ('[pretrain.training]\nprecision = "auto"', "precision is auto"),
        ("[pretrian]\nx = 1", "unknown setting pretrian"),
        ("[pretrain.training]\nstep = 1", "did you mean steps"),
        ("[pretrain", "not valid TOML"),
    ],
)
def test_an_entry_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    path = file(tmp_path / "other.toml", text)
    with pytest.raises(UserError, match=message) as caught:
        load_entries(["muon", path])
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_the_same_for_all_may_be_changed_for_all(tmp_path: Path) -> None:
    path = file(tmp_path / "other.toml", "[pretrain]\nvalidation_tokens = 1000")
    both = load_entries(["muon", path], ["pretrain.validation_tokens=512", "pretrain.device=auto"])
    settings = [entry.sections["pretrain"] for entry in both]
    assert [(each.validation_tokens, each.device) for each in settings] == [(512, "auto")] * 2


def test_entries_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="moun: no such entry; give one of adamw, many_epochs"):
        load_entries(["adamw", "moun"])
    with pytest.raises(UserError, match="at least two entries, got 1"):
        load_entries(["adamw"])
    with pytest.raises(UserError, match="is also called 'muon'"):
        load_entries(["muon", file(tmp_path / "muon.toml", "")])
    with pytest.raises(UserError, match="no file here replaces one of the project's"):
        load_entries(["muon", str(tmp_path)])
    with pytest.raises(UserError, match="letters, digits"):
        load_entries(["muon", file(tmp_path / "a b.toml", "")])
