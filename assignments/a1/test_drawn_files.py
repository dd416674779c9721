"""a1.17 and a1.18 on drawn inputs: the space of each graded function."""

import json
from importlib import import_module

from file_strategies import (
    gpt2_files,
    printable,
    tokenizer_json_files,
    tokenizer_json_of,
    vocabularies_for_files,
)
from hypothesis import strategies as st
from text_strategies import (
    GPT2,
    GPT4,
    file_of,
    special_tokens,
    texts,
    with_wrong,
)
from vocabulary_strategies import tokens

from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

EMPTY = {"vocab": {}, "merges": [], "special_tokens": []}
MODEL_KEYS = set(tokenizer_json_of(EMPTY, GPT2)["model"])


def made_tokenizer(vocab, merges, special_tokens, pattern):
    """The learner's tokenizer, or the reference's in its own process."""
    return import_module("tokenizer_bpe.tokenizer").Tokenizer(
        vocab, merges, special_tokens, pattern
    )


def merges_text(module, vocab, merges, special_tokens):
    return module.merges_text(made_tokenizer(vocab, merges, special_tokens, GPT2))


def tokenizer_json(module, vocab, merges, special_tokens, pattern):
    return module.tokenizer_json(made_tokenizer(vocab, merges, special_tokens, pattern))


@st.composite
def vocabularies_to_save(draw):
    made = draw(vocabularies_for_files(draw(texts(long=False)), draw(special_tokens)))
    return {**made, "pattern": draw(st.sampled_from([GPT2, GPT4]))}


def as_the_handout_shows(content):
    """The file's content; a reader ignores keys that it does not know."""
    file = json.loads(content)
    model = {key: value for key, value in file["model"].items() if key in MODEL_KEYS}
    return {**file, "model": model}


def read_gpt2_files(module, vocab, merges):
    with file_of(vocab) as vocab_path, file_of(merges) as merges_path:
        read = module.read_gpt2_files(vocab_path, merges_path)
        return dict(read.vocab), [tuple(merge) for merge in read.merges]


def read_tokenizer_json(module, content):
    with file_of(content) as path:
        read = module.read_tokenizer_json(path)
        special = [str(token) for token in read.special_tokens]
        return dict(read.vocab), [tuple(merge) for merge in read.merges], special, read.pattern


FILES = [
    Space(
        "a1.17",
        "tokenizer_bpe.tokenizer_file.to_printable",
        arguments({"token": st.one_of(tokens, st.binary(max_size=300))}),
    ),
    Space(
        "a1.17",
        "tokenizer_bpe.tokenizer_file.from_printable",
        arguments(
            {
                "text": with_wrong(
                    st.binary(max_size=30).map(printable), texts(max_pieces=3, long=False)
                ),
                "where": st.just("vocab.json"),
            }
        ),
    ),
    Space(
        "a1.17",
        "tokenizer_bpe.tokenizer_file.merges_text",
        vocabularies_for_files(),
        call=merges_text,
        draws=20,
    ),
    Space(
        "a1.17",
        "tokenizer_bpe.tokenizer_file.read_gpt2_files",
        gpt2_files(),
        call=read_gpt2_files,
        told=r"line \d+|corpus\.txt",
    ),
    Space(
        "a1.18",
        "tokenizer_bpe.tokenizer_file.tokenizer_json",
        vocabularies_to_save(),
        call=tokenizer_json,
        view=as_the_handout_shows,
    ),
    Space(
        "a1.18",
        "tokenizer_bpe.tokenizer_file.read_tokenizer_json",
        tokenizer_json_files(),
        call=read_tokenizer_json,
        told=r"corpus\.txt",
    ),
]

test_as_the_reference, test_contracts = drawn_checks(FILES)
