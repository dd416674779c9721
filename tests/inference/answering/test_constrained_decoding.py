"""Answers by a schema: a model that draws at random always writes what the schema allows."""

import json

import pytest
import torch

from inference.answering.constrained_decoding import JsonGrammars, schema_of_calls
from inference.sampling import SamplingSettings, next_token_probabilities, pick, uniform
from lm_core.special_tokens import SPECIAL_TOKENS
from lm_core.user_error import UserError
from tokenizer_bpe.tokenizer import Tokenizer

END = 261  # with rows above it that have no token
ROWS = 300
SETTINGS = SamplingSettings(temperature=1.5)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "likes": {"type": "array", "items": {"enum": ["ä", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammars():
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b'{"', 257: b'":', 258: b'"}'}
    merges = [(b"{", b'"'), (b'"', b":"), (b'"', b"}")]
    return JsonGrammars(Tokenizer(vocab, merges, SPECIAL_TOKENS), ROWS, {END})


def written(grammars, schema, seed, most=400):
    """Return a random text under the schema: (text, whether it ended)."""
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b'{"', 257: b'":', 258: b'"}'}
    constraint = grammars.constraint(schema)
    # "}" and the quotation mark are likely, so that texts end.
    logits = torch.randn(ROWS, generator=torch.manual_seed(seed))
    logits[list(b'"}]')] += 3
    text = b""
    for place in range(most):
        allowed = constraint.allowed()
        assert allowed.shape == (ROWS,) and not allowed[END + 1 :].any(), "rows without a token"
        assert not allowed[259:261].any(), "other control tokens"
        probabilities = next_token_probabilities(logits.masked_fill(~allowed, -torch.inf), SETTINGS)
        token = pick(probabilities, uniform(seed, place))
        constraint.accept(token)
        if token == END:
            return text.decode(), True
        text += vocab[token]
    return text.decode(errors="replace"), False


@pytest.mark.parametrize("seed", range(20))
def test_answers_obey_the_schema(grammars, seed):
    text, ended = written(grammars, PERSON, seed)
    assert ended
    found = json.loads(text)
    assert set(found) <= {"name", "age", "likes"} and {"name", "age"} <= set(found)
    assert len(found["name"]) <= 5 and 0 <= found["age"] <= 150 and isinstance(found["age"], int)
    assert set(found.get("likes", [])) <= {"ä", "b"} and len(found.get("likes", [])) <= 2


def test_spaces_do_not_go_on_forever(grammars):
    constraint = grammars.constraint(PERSON)
    constraint.accept(ord("{"))
    count = 0
    while constraint.allowed()[ord(" ")] and count < 100:
        constraint.accept(ord(" "))
        count += 1
    assert 8 <= count <= 40, "room to indent"


def test_an_answer_may_end_only_where_the_json_does(grammars):
    constraint = grammars.constraint({"type": "object"})
    for character in b'{"a": 1':
        assert not constraint.allowed()[END]
        constraint.accept(character)
    constraint.accept(ord("}"))
    assert constraint.allowed()[END]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "nonsense"},
        {"$ref": "#/$defs/missing"},
        {"not": {"type": "string"}, "unheardOf": 1},
        {"type": "string", "pattern": "("},
        {"enum": [float("nan")]},
    ],
)
def test_schemas_that_cannot_be_followed(grammars, schema):
    with pytest.raises(UserError, match="schema is not supported") as error:
        grammars.constraint(schema)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_model_without_an_end_is_refused():
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [])
    with pytest.raises(UserError, match="no token that ends an answer"):
        JsonGrammars(tokenizer, 256, set())


def test_a_schema_of_calls_keeps_the_references_of_its_parts(grammars):
    """Each function's parameters have definitions of their own, also with equal names."""

    def tool(name, values):
        parameters = {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/X"}},
            "required": ["x"],
            "additionalProperties": False,
            "$defs": {"X": {"enum": values}},
        }
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    tools = [tool("f", ["p"]), tool("g", ["q"])]
    found = set()
    for seed in range(8):
        text, ended = written(grammars, schema_of_calls(tools), seed)
        assert ended
        call = json.loads(text)
        assert call["arguments"] == {"x": {"f": "p", "g": "q"}[call["name"]]}
        found.add(call["name"])
    assert found == {"f", "g"}
    text, _ = written(grammars, schema_of_calls(tools[1:]), 0)
    assert json.loads(text) == {"name": "g", "arguments": {"x": "q"}}
