"""A wrong function is found on drawn inputs, and its smallest input is shown; the reference answers
in a process of its own, whatever stands in for it here.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import preloaded_python
import pytest
from hypothesis import strategies as st

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.drawn_inputs.drawn_checks import check_drawn_inputs
from lm_course.drawn_inputs.input_spaces import Raised, Returned, Space, arguments
from lm_course.drawn_inputs.reference_process import ReferenceProcess, ask
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


STANDS_IN = """
from hypothesis import strategies as st
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.reference_process import ReferenceProcess, ask

space = Space("a1.3", "tokenizer_bpe.naive_training.merge_pair", st.nothing())
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


def test_the_reference_itself_passes(reference) -> None:
    check_drawn_inputs(MERGE, naive_training, reference)
    check_drawn_inputs(SPLIT, pretokenization, reference)


def wrong_where_a_token_is_zero(word, pair):
    joined = b"\0".join(word).replace(b"\0".join(pair), b"".join(pair))
    return tuple(joined.split(b"\0")) if word else ()


def test_the_smallest_wrong_input_is_shown(reference) -> None:
    module = SimpleNamespace(merge_pair=wrong_where_a_token_is_zero)
    with pytest.raises(GradedFailure) as caught:
        check_drawn_inputs(MERGE, module, reference)
    message = str(caught.value)
    assert message.startswith("the result of merge_pair: ")
    assert "for example with\n    word = (b'\\x00',)\n    pair = (b'a', b'a')" in message


def refuses_everything(text, special_tokens):
    raise ValueError("no")


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        (lambda text, special_tokens: [text], "split_special_tokens should refuse this input"),
        (refuses_everything, "split_special_tokens refuses an input that is right"),
    ],
)
def test_what_should_be_refused_and_what_should_not(reference, split, sentence: str) -> None:
    """Examples come first: the first is wrong, the second is right."""
    refused = {"text": "a", "special_tokens": [""]}
    space = Space(SPLIT.task, SPLIT.name, SPLIT.inputs, examples=[refused])
    with pytest.raises(GradedFailure, match=sentence):
        check_drawn_inputs(space, SimpleNamespace(split_special_tokens=split), reference)


def test_the_process_ends_with_its_owner(reference) -> None:
    process = ReferenceProcess([MERGE])
    process.close()
    with pytest.raises(OSError, match=r"No such file|refused"):
        process.connect()
