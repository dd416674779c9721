"""A wrong function is found on drawn inputs, and its smallest input is shown; the reference answers
in a process of its own, whatever stands in for it here.
"""

import os
import pickle
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import preloaded_python
import pytest
from hypothesis import strategies as st

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.drawn_inputs import drawing
from lm_course.drawn_inputs.drawing import draw_inputs
from lm_course.drawn_inputs.drawn_checks import (
    DrawnInputs,
    check_drawn_contracts,
    check_drawn_inputs,
)
from lm_course.drawn_inputs.input_spaces import (
    Raised,
    Returned,
    Space,
    arguments,
    outcome_of_reference,
)
from lm_course.drawn_inputs.reference_process import Drawn, ReferenceProcess, ask
from lm_course.grading.check_outcome import GradedFailure
from tokenizer_bpe import naive_training, pretokenization

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the reference is a fork")
PROJECT = Path(__file__).parents[3]
tokens = st.sampled_from([b"a", b"b", b"\0"])
MERGE = Space(
    "a1.3",
    "tokenizer_bpe.naive_training.merge_pair",
    arguments({"word": st.lists(tokens).map(tuple), "pair": st.tuples(tokens, tokens)}),
)
SPLIT = Space(
    "a1.6",
    "tokenizer_bpe.pretokenization.split_special_tokens",
    arguments({"text": st.text("a|"), "special_tokens": st.lists(st.sampled_from(["|", ""]))}),
)


@pytest.fixture(scope="module")
def reference():
    process = ReferenceProcess([MERGE, SPLIT])
    yield process
    process.close()


def test_the_reference_answers(reference) -> None:
    with reference.connect() as connection:
        inputs = {"word": (b"a", b"a", b"a"), "pair": (b"a", b"a")}
        assert ask(connection, MERGE, inputs) == Returned(None, (b"aa", b"a"))
        refused = ask(connection, SPLIT, {"text": "a", "special_tokens": [""]})
        assert isinstance(refused, Raised)
        with pytest.raises(RuntimeError, match="the reference failed: TypeError"):
            ask(connection, SPLIT, {"text": 1, "special_tokens": ["|"]})


def test_of_what_is_still_to_be_written_one_input_is_drawn_and_all_once_it_passes() -> None:
    process = ReferenceProcess([MERGE, SPLIT], unwritten={MERGE.task})
    first = DrawnInputs(MERGE, process.first_drawn(MERGE), process)
    assert len(first.drawn) == 1
    assert [inputs.drawn for inputs in first.in_turn()] == [first.drawn, process.drawn(MERGE)]
    assert len(process.drawn(MERGE)) > 50
    written = DrawnInputs(SPLIT, process.drawn(SPLIT), process)
    assert list(written.in_turn()) == [written]
    process.close()


STANDS_IN = """
from hypothesis import strategies as st
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.reference_process import Drawn, ReferenceProcess, ask

space = Space("a1.3", "tokenizer_bpe.naive_training.merge_pair", st.just({"word": (), "pair": ()}))
process = ReferenceProcess([space])
inputs = {"word": (b"a", b"b"), "pair": (b"a", b"b")}
with process.connect() as connection:
    print(ask(connection, space, inputs).seen)
process.close()
from tokenizer_bpe import naive_training
print(naive_training.merge_pair(**inputs))
"""


def test_it_is_the_reference_although_a_stand_in_is_chosen(tmp_path: Path) -> None:
    """In a program that has imported neither."""
    (tmp_path / "tokenizer_bpe").mkdir()
    stand_in = tmp_path / "tokenizer_bpe" / "naive_training.py"
    stand_in.write_text("def merge_pair(word, pair):\n    return 'stand-in'\n")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), STAND_INS_VARIABLE: str(tmp_path)}
    done = preloaded_python.run(["-c", STANDS_IN], tmp_path, environment)
    assert done.stdout.splitlines() == ["(b'ab',)", "stand-in"], done.stderr


def inputs_of(space: Space, reference: ReferenceProcess, failed: Path | None = None):
    return DrawnInputs(space, reference.drawn(space), reference, failed)


def test_the_reference_itself_passes(reference) -> None:
    check_drawn_inputs(inputs_of(MERGE, reference), naive_training)
    check_drawn_inputs(inputs_of(SPLIT, reference), pretokenization)


def test_as_many_inputs_as_the_space_says_and_the_same_in_every_process(reference) -> None:
    drawn = reference.drawn(MERGE)
    assert 50 < len({pair.inputs for pair in drawn}) == len(drawn) <= MERGE.draws
    others = ReferenceProcess([MERGE]), ReferenceProcess([MERGE], times=10)
    same, more = (other.drawn(MERGE) for other in others)
    for other in others:
        other.close()
    assert same == drawn
    assert len(more) > 5 * len(drawn)


def wrong_where_a_token_is_zero(word, pair):
    joined = b"\0".join(word).replace(b"\0".join(pair), b"".join(pair))
    return tuple(joined.split(b"\0")) if word else ()


WRONG_MERGE = SimpleNamespace(merge_pair=wrong_where_a_token_is_zero)
SMALLEST = ["  for example with\n    word = (b'\\x00',)\n    pair = (b'a', b'a')"]


def test_the_smallest_wrong_input_is_shown(reference) -> None:
    with pytest.raises(GradedFailure) as caught:
        check_drawn_inputs(inputs_of(MERGE, reference), WRONG_MERGE)
    assert str(caught.value).startswith("the result of merge_pair: ")
    assert [note for note in caught.value.__notes__ if "for example" in note] == SMALLEST


def test_an_error_in_the_code_is_shown_with_its_smallest_input(reference) -> None:
    module = SimpleNamespace(merge_pair=lambda word, pair: {b"a": word, b"b": word}[pair[1]])
    with pytest.raises(KeyError) as caught:
        check_drawn_inputs(inputs_of(MERGE, reference), module)
    found = [note for note in caught.value.__notes__ if "for example" in note]
    assert found == ["  for example with\n    word = ()\n    pair = (b'a', b'\\x00')"]


def test_shrinking_ends_although_smaller_inputs_never_return(reference, monkeypatch) -> None:
    """The failure that was found is told, and not that the code is endless."""
    monkeypatch.setattr(drawing, "SECONDS_TO_SHRINK", 0.2)

    def endless_once_wrong(word, pair):
        while not failures:
            if len(word) > 2:
                failures.append(word)
        if len(failures) > 1 or len(word) <= 2:
            threading.Event().wait()
        failures.append(word)
        return ()

    failures = []
    found = pickle.dumps({"word": (b"a",) * 3, "pair": (b"a", b"b")})
    chosen = Drawn(found, pickle.dumps(Returned(None, (b"a",) * 3)))
    inputs = DrawnInputs(MERGE, [chosen], reference)
    with pytest.raises(GradedFailure, match="the result of merge_pair") as caught:
        check_drawn_inputs(inputs, SimpleNamespace(merge_pair=endless_once_wrong))
    assert "word = (b'a', b'a', b'a')" in caught.value.__notes__[0]


def test_inputs_that_failed_are_tried_first_in_the_next_run(reference, tmp_path: Path) -> None:
    """Even if the next run draws none that fails; and no longer, once they pass."""
    failed = tmp_path / "failed" / "merge_pair.pickle"
    nothing_drawn = DrawnInputs(MERGE, [], reference, failed)
    check_drawn_inputs(nothing_drawn, WRONG_MERGE)
    with pytest.raises(GradedFailure):
        check_drawn_inputs(inputs_of(MERGE, reference, failed), WRONG_MERGE)
    with pytest.raises(GradedFailure, match="the result of merge_pair") as caught:
        check_drawn_inputs(nothing_drawn, WRONG_MERGE)
    assert caught.value.__notes__ == SMALLEST
    check_drawn_inputs(nothing_drawn, naive_training)
    check_drawn_inputs(nothing_drawn, WRONG_MERGE)
    assert list(failed.parent.iterdir()) == []
    for of_another_suite in (b"no pickle", pickle.dumps({"word": (b"a",)})):
        failed.write_bytes(of_another_suite)
        check_drawn_inputs(nothing_drawn, naive_training)
        assert not failed.exists()


def refuses_everything(text, special_tokens):
    raise ValueError("no")


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        (lambda text, special_tokens: [text], "split_special_tokens should refuse this input"),
        (refuses_everything, "split_special_tokens refuses an input that is right"),
    ],
)
def test_what_should_be_refused_and_what_should_not(split, sentence: str) -> None:
    """Examples come first, and are not shrunk."""
    refused = {"text": "aaa", "special_tokens": ["|", ""]}
    space = Space(SPLIT.task, SPLIT.name, SPLIT.inputs, examples=[refused])
    process = ReferenceProcess([space])
    with pytest.raises(GradedFailure, match=sentence):
        module = SimpleNamespace(split_special_tokens=split)
        check_drawn_inputs(inputs_of(space, process), module)
    process.close()


def test_what_a_message_must_name(reference) -> None:
    told = Space(SPLIT.task, SPLIT.name, SPLIT.inputs, told=r"special token \d+")

    def refuse(message: str) -> SimpleNamespace:
        def split(text, special_tokens):
            if "" in special_tokens:
                raise ValueError(message.format(special_tokens.index("")))
            return pretokenization.split_special_tokens(text, special_tokens)

        return SimpleNamespace(split_special_tokens=split)

    chosen = [each for each in reference.drawn(SPLIT) if b"is empty" in each.outcome]
    inputs = DrawnInputs(told, chosen, reference)
    check_drawn_inputs(inputs, refuse("special token {} is empty"))
    with pytest.raises(GradedFailure, match="the message of split_special_tokens lacks a part"):
        check_drawn_inputs(inputs, refuse("special token {}1 is empty"))


def test_an_oracle_may_refuse_an_input() -> None:
    def oracle(word: str) -> str:
        if not word:
            raise ValueError("an empty word")
        return word.upper()

    space = Space("a1.3", "a.b.shout", arguments({"word": st.text()}), oracle=oracle)
    assert outcome_of_reference(space, {"word": "a"}) == Returned(None, "A")
    assert outcome_of_reference(space, {"word": ""}) == Raised("ValueError", "an empty word")


def test_each_input_is_drawn_anew() -> None:
    """Hypothesis' own search would change a part of the input before, and leave the rest."""
    drawn: list[list[int]] = []
    fields = st.fixed_dictionaries(dict.fromkeys("abcdefgh", st.sampled_from(range(1000))))
    draw_inputs(
        Space("t1.1", "stage.lesson.work", fields), 1, lambda x: drawn.append([*x.values()])
    )
    equal = [a == b for x, y in pairwise(drawn) for a, b in zip(x, y, strict=True)]
    assert len(drawn) > 50
    assert sum(equal) < 0.02 * len(equal)


def test_the_contracts_are_checked_with_other_inputs_in_between(reference) -> None:
    kept: list[str] = []

    def split(text, special_tokens):
        kept[:] = pretokenization.split_special_tokens(text, special_tokens)
        return kept

    module = SimpleNamespace(split_special_tokens=split)
    with pytest.raises(GradedFailure, match="changes the result of an earlier call"):
        check_drawn_contracts(inputs_of(SPLIT, reference), module)
    check_drawn_contracts(inputs_of(SPLIT, reference), pretokenization)


def test_the_process_ends_with_its_owner(reference) -> None:
    process = ReferenceProcess([MERGE])
    process.close()
    with pytest.raises(OSError, match=r"No such file|refused"):
        process.connect()
