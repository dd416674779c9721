"""The digit-rule experiment holds out the stated sums, and runs from end to end."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "digit_rule.py"


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("digit_rule", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def test_no_held_out_sum_is_trained_on_in_either_order(experiment):
    trained = set()
    for step in range(200):
        for line in "".join(experiment.pages_of_step(0, step, ["prose\n"])).splitlines():
            if line != "prose":
                left, _, right, _, answer = line.split()
                assert int(left) + int(right) == int(answer)
                trained |= {(int(left), int(right)), (int(right), int(left))}
    held_out = set(map(tuple, experiment.held_out_text(["prose\n"]).sums))
    assert len(held_out) == experiment.NUM_TEST_SUMS
    assert len(trained) > 5000
    assert not held_out & trained


def test_prose_is_cut_without_loss_and_held_out_in_blocks(experiment):
    words = " ".join(f"word{number}" for number in range(60_000))
    train, held_out = experiment.prose_pieces(words)
    assert sorted("".join(train + held_out)) == sorted(words)
    assert 0.04 < len(held_out) / len(train) < 0.06
    assert held_out[0] not in train


def test_only_the_answer_and_its_end_count(experiment, monkeypatch):
    """By hand, 432 and the end of the line are 4, 3, 2 and 2 tokens under the four rules."""
    sums = [experiment.Sum(347, 85), experiment.Sum(1, 2), experiment.Sum(999, 999)]
    for max_digits, tokens in ((1, 4 + 2 + 5), (2, 3 + 2 + 3), (3, 2 + 2 + 3), (0, 2 + 2 + 2)):
        lines = [found.prompt + found.answer for found in sums]
        tokenizer = experiment.trained_tokenizer(max_digits, lines)

        def knows_nothing(token_ids):
            return torch.zeros(*token_ids.shape, experiment.VOCAB_SIZE)

        nats = experiment.nats_per_answer(knows_nothing, tokenizer, sums)
        assert nats == pytest.approx(tokens * math.log(experiment.VOCAB_SIZE) / 3)

        def wrong_once(model, prompts, *arguments, tokenizer=tokenizer):
            texts = [tokenizer.decode(row[1:]) for row in prompts.tolist()]
            answers = {"347 + 85 = ": "432", "1 + 2 = ": "3", "999 + 999 = ": "1997"}
            return [tokenizer.encode(answers[text]) for text in texts]

        monkeypatch.setattr(experiment, "generate", wrong_once)
        assert experiment.right_answers(None, tokenizer, sums) == set(sums[:2])


def test_the_whole_experiment_in_a_few_steps(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "NUM_TEST_SUMS", 20)
    monkeypatch.setattr(experiment, "NUM_TEST_PAGES", 5)
    prose = tmp_path / "prose.txt"
    prose.write_text("Some words, and more of them in 1998.\n" * 8000)
    out = tmp_path / "results.json"
    arguments = ["--prose", prose, "--steps", 12, "--seeds", 0, "--rules", 1, 0, "--out", out]
    monkeypatch.setattr(sys, "argv", ["digit_rule.py", *map(str, arguments)])
    experiment.main()
    rules = json.loads(out.read_text())["rules"]
    one, no_limit = rules["1 digit"], rules["no limit"]
    assert one["runs"][0]["bytes"] == no_limit["runs"][0]["bytes"]
    assert one["runs"][0]["tokens"] > no_limit["runs"][0]["tokens"]
    assert one["tokenizer"]["entries_of_digits"] == 10 < no_limit["tokenizer"]["entries_of_digits"]
    assert 0 <= one["over_seeds"]["accuracy"]["mean"] <= 1
