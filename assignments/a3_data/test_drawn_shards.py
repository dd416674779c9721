"""a3_data.20 on drawn inputs: the space of each graded function."""

from hypothesis import strategies as st
from shard_inputs import PairTokenizer, documents_folder, parts_of

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.grading.comparisons import check_true

NAME = "data_pipeline.shard_writing."
shares = st.one_of(
    st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9, 1e-9, 0.999]), st.floats(0.001, 0.999)
)
pieces = st.sampled_from(["a", "b", "ab", "<", "|", "<|", "|>", "<|a|>", "<|b|>", "aa", " ", "é",
                          "🦉", ".", "<|a|><|b|>"])  # fmt: skip
texts = st.lists(pieces, max_size=8).map("".join)
specials = st.lists(
    st.sampled_from(["<|a|>", "<|b|>", "aa", "ab", "aab", "<|", "a.", "|><|"]), max_size=3,
    unique=True,
)  # fmt: skip


@st.composite
def ids(draw):
    share = draw(shares)
    near = int(share * 2**64) + draw(st.sampled_from([-4096, -2048, 0, 2048, 4096]))
    number = draw(st.one_of(st.integers(0, 2**64 - 1), st.just(min(max(near, 0), 2**64 - 1))))
    return {"document_id": f"{number:016x}", "validation_share": share}


@st.composite
def folders(draw):
    documents = draw(st.lists(texts, min_size=1, max_size=5))
    if size := draw(near_constants(st.just(0), 2, 3000)):
        documents = [(text * size)[:size] for text in documents[:2]]
    return {
        "texts": documents,
        "validation_share": draw(shares),
        "held_out": draw(st.sampled_from(["end", "end", "documents"])),
        "training_share": draw(st.one_of(st.just(1.0), shares)),
    }


def calling(name):
    def call(module, texts, **settings):
        with documents_folder(texts) as folder:
            found = getattr(module, name)(folder, module.ShardSettings(**settings))
            return parts_of(found)

    return call


def encode(module, text, special_tokens):
    """The text is what can be fixed: ids without a special token, and equal to it if decoded."""
    tokenizer = PairTokenizer(special_tokens)
    found = module.encode_as_plain_text(tokenizer, text)
    check_true(
        isinstance(found, list), "encode_as_plain_text returns a list of ids", {"got": found}
    )
    got = [int(each) for each in found]
    has_special = bool({*tokenizer.special_tokens.values()} & {*got})
    spelled = any(name in text for name in special_tokens)
    return tokenizer.decode(got), has_special, None if spelled else got


SPACES = [
    Space("a3_data.20", f"{NAME}split_of", ids(), draws=70),
    Space("a3_data.20", f"{NAME}split_documents", folders(), call=calling("split_documents")),
    Space("a3_data.20", f"{NAME}used_documents", folders(), call=calling("used_documents")),
    Space(
        "a3_data.20",
        f"{NAME}plain_parts",
        arguments({"text": texts, "special_tokens": specials}),
        draws=70,
    ),
    Space(
        "a3_data.20",
        f"{NAME}encode_as_plain_text",
        arguments({"text": texts, "special_tokens": specials}),
        call=encode,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
