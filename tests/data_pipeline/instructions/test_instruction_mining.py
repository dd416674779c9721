"""Mining on a fake installation: caps, duplicates, splits, preference pairs, files."""

import json
import sysconfig

import pytest

from data_pipeline.instructions.docstring_answers import Pair
from data_pipeline.instructions.instruction_mining import (
    InstructionSettings,
    distinct_pairs,
    find_packages,
    installed_packages,
    is_held_out,
    mine_instructions,
    mine_package,
    preference_rows,
)

FILES = ("sft_train", "sft_heldout", "preference_train", "preference_heldout")
ONE_PROCESS = InstructionSettings(num_processes=1, heldout_share=0.3)


def function(name: str, answer: str) -> str:
    return f'def {name}():\n    """{answer}"""\n'


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """Create two folders that stand for the standard library and site-packages."""
    standard, site = tmp_path / "lib", tmp_path / "site"
    values = [function(f"f{n}", f"Return the value number {n} of all.") for n in range(40)]
    things = [function(f"g{n}", f"Compute the large thing number {n}.") for n in range(50)]
    files = {
        standard / "textwrap.py": "".join(values),
        standard / "no_standard_module.py": function("f", "This is not in the standard library."),
        site / "large" / "__init__.py": "".join(things),
        site / "large" / "tests" / "test_x.py": function("t", "This function is only a test."),
        site / "large" / "_vendor" / "v.py": function("v", "This function is somebody else's."),
        site / "large" / "broken.py": "print 'two'",
        site / "copycat.py": function("f0", "Return the value number 0 of all."),
    }  # fmt: skip
    for path, source in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    paths = {"stdlib": str(standard), "purelib": str(site), "platlib": str(site)}
    monkeypatch.setattr(sysconfig, "get_path", paths.__getitem__)
    return tmp_path


def read(folder):
    texts = {name: (folder / f"{name}.jsonl").read_text() for name in FILES}
    return {name: [json.loads(line) for line in text.splitlines()] for name, text in texts.items()}


def test_a_part_of_the_packages_is_spread_over_all(installation):
    def names(max_packages: int) -> list[str]:
        settings = ONE_PROCESS.model_copy(update={"max_packages": max_packages})
        return [package.name for package in installed_packages(settings)]

    (installation / "site" / "zebra.py").write_text(function("z", "Return a zebra, if any."))
    assert names(0) == ["textwrap", "copycat", "large", "zebra"]
    assert names(2) == ["textwrap", "large"]


def test_files_and_summary(installation):
    settings = InstructionSettings(num_processes=1, heldout_share=0.3, max_pairs_per_package=20)
    summary = mine_instructions(installation / "out", settings)
    rows = read(installation / "out")
    assert {name: len(rows[name]) for name in FILES} == {name: summary[name] for name in FILES}
    assert summary["files_that_do_not_parse"] <= 1
    assert summary["pairs_found"] == 40 + 20 + 1
    assert summary["repeated_names_or_answers"] == 1
    train, heldout = ({row["id"] for row in rows[name]} for name in ("sft_train", "sft_heldout"))
    assert not train & heldout
    assert len(train | heldout) == 60
    row = rows["sft_train"][0]
    assert set(row) == {"id", "messages"}
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    assert f"`{row['id']}`" in row["messages"][0]["content"]


def test_the_same_bytes_with_one_process_and_with_two(installation):
    mine_instructions(installation / "one", ONE_PROCESS)
    mine_instructions(installation / "two", ONE_PROCESS.model_copy(update={"num_processes": 2}))
    for name in FILES:
        one, two = (
            (installation / folder / f"{name}.jsonl").read_bytes() for folder in ("one", "two")
        )
        assert one == two


def test_no_held_out_answer_is_in_the_training_files(installation):
    mine_instructions(installation / "out", ONE_PROCESS)
    rows = read(installation / "out")
    held_out = {row["messages"][1]["content"] for row in rows["sft_heldout"]}
    trained = {row["messages"][1]["content"] for row in rows["sft_train"]}
    trained |= {row[side] for row in rows["preference_train"] for side in ("chosen", "rejected")}
    assert not held_out & trained


def test_tests_vendored_and_foreign_modules_are_not_read(installation):
    [large] = [p for p in find_packages(installation / "site", 99) if p.name == "large"]
    assert {module for _, module in large.files} == {"large", "large.broken"}
    assert mine_package(large, ONE_PROCESS)[1:] == (2, 1)
    names = [p.name for p in find_packages(installation / "lib", 99, ["textwrap", "os"])]
    assert names == ["textwrap"]


def test_nothing_found_is_an_error_and_writes_nothing(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "lib"))
    with pytest.raises(ValueError, match=r"sft_train\.jsonl would be empty: 0 pairs from 0"):
        mine_instructions(tmp_path / "out", ONE_PROCESS)
    assert not (tmp_path / "out").exists()


def pair(name: str, length: int, module: str = "m") -> Pair:
    return Pair(f"{module}.{name}", module, "function", (name * length)[:length])


def test_rejected_answers_are_wrong_similar_in_length_and_from_the_same_module():
    pairs = [pair(chr(97 + n), 40 + n) for n in range(20)] + [pair("z", 45, "other")]
    rows = {row["id"]: row for row in preference_rows(pairs)}
    assert len(rows) == 21
    for one in pairs[:20]:
        row = rows[one.name]
        assert row["chosen"] == one.answer != row["rejected"]
        assert abs(len(row["rejected"]) - len(one.answer)) <= 3
        assert not row["rejected"].startswith("z")
    assert rows["other.z"]["rejected"][0] in "abcdefghijklmnopqrst"
    assert len({row["rejected"] for row in rows.values()}) > 5


def test_an_answer_of_another_length_is_no_opponent():
    assert preference_rows([pair("a", 30)] + [pair(c, 300) for c in "bc"]) == []


def test_of_equal_answers_one_stays():
    twins = [Pair("m.a", "m", "function", "Same."), Pair("m.b", "m", "function", "same.")]
    assert len(distinct_pairs(twins)) == 1
    assert distinct_pairs(twins) == distinct_pairs(reversed(twins))


def test_the_held_out_share():
    held_out = sum(is_held_out(pair(str(n), 5), 0.1) for n in range(2000))
    assert 140 <= held_out <= 260  # 200 expected, standard deviation 13
