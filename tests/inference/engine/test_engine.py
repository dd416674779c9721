"""From a checkpoint folder to text: whole characters, and errors before any computation."""

import json

import pytest
import torch

from inference.engine import engine as engine_module
from inference.engine.engine import Engine
from inference.engine.text_side import TextSide
from inference.generation import generate_steps
from inference.sampling import SamplingSettings
from lm_core.formats.checkpoint_files import write_checkpoint
from lm_core.random_state import seed_everything
from lm_core.special_tokens import SPECIAL_TOKENS
from lm_core.user_error import UserError
from tokenizer_bpe.templates.added_tokens import TextToken
from tokenizer_bpe.templates.jinja_template import JinjaTemplate
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.pretrained import to_hugging_face

GREEDY = SamplingSettings(temperature=0.0)


@pytest.fixture
def checkpoint(model, tokenizer, tmp_path):
    folder = tmp_path / "step_000001"
    tensors, config = to_hugging_face(model, {"eos_token_id": 256})
    write_checkpoint(folder, tensors, config, hugging_face_files(tokenizer), None)
    return folder


def test_a_loaded_engine_says_what_the_model_in_memory_says(checkpoint, engine) -> None:
    loaded = Engine.from_checkpoint(checkpoint)
    assert loaded.complete("Hello", GREEDY, 12) == engine.complete("Hello", GREEDY, 12)


def test_streams_join_to_the_whole_and_never_hold_half_a_character(engine) -> None:
    settings = SamplingSettings(temperature=3.0, seed=1)  # random bytes: many invalid characters
    pieces = list(engine.stream("Hello", settings, 40))
    assert "".join(pieces) == engine.complete("Hello", settings, 40)
    ids = [ids[0] for ids in _ids(engine, settings)]
    assert "".join(pieces) == engine.tokenizer.decode(ids)


def _ids(engine, settings):
    prompt = torch.tensor([engine.tokenizer.encode("Hello")])
    return generate_steps(engine.model, prompt, settings, 40, engine.stop_ids)


def test_a_piece_is_never_a_part_of_a_character(engine, monkeypatch) -> None:
    """One token per byte: the pieces are the characters, and an incomplete last one is U+FFFD."""
    text = "aé€😀"
    steps = ([byte] for byte in text.encode() + b"\xe2\x82")
    monkeypatch.setattr(engine_module, "generate_steps", lambda *_, **__: steps)
    assert list(engine.stream("x", GREEDY, 99)) == [*text, "\N{REPLACEMENT CHARACTER}"]


def test_a_special_token_ends_the_text(engine, monkeypatch) -> None:
    whole = [ids[0] for ids in _ids(engine, GREEDY)]
    cut = next(i for i, token in enumerate(whole) if token not in whole[:i] and i > 0)
    wanted = whole[cut]
    for stop in sorted(engine.stop_ids):
        drawn = engine_module.generate_steps

        def renamed(*given, stop=stop, drawn=drawn, **named):
            assert stop in given[-1]
            return drawn(*given[:-1], {wanted}, **named)

        with monkeypatch.context() as patch:
            patch.setattr(engine_module, "generate_steps", renamed)
            got = engine.complete("Hello", GREEDY, 40)
        assert got == engine.tokenizer.decode(whole[:cut])


def test_a_long_prompt_is_refused_before_the_first_piece(engine) -> None:
    with pytest.raises(ValueError, match="the prompt has 60 tokens, the model's context holds 48"):
        engine.stream("x" * 60, GREEDY, 5)
    with pytest.raises(ValueError, match="shorten the prompt by at least"):
        engine.stream_chat([{"role": "user", "content": "x" * 60}], GREEDY, 5)


def test_a_limit_of_nothing_is_refused_before_the_first_piece(engine) -> None:
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        engine.stream("x", GREEDY, 0)


def test_an_empty_prompt_starts_a_document(engine) -> None:
    assert engine.complete("", GREEDY, 3) == engine.complete("<|endoftext|>", GREEDY, 3) != ""


def test_chat_ends_with_the_assistants_turn_open(engine) -> None:
    ids = engine.chat_ids([{"role": "user", "content": "Hi"}])
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert engine.tokenizer.decode(ids) == text
    assert engine.stop_ids == {256, 257, 258}  # end of text, start and end of a message


def says(ids):
    """Replace `generate_steps` by these ids."""
    return lambda *_, **__: ([each] for each in ids)


def test_chat_is_what_the_stream_gives_without_white_space_around_it(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine_module, "generate_steps", says(b" hi \n"))
    messages = [{"role": "user", "content": "Hi"}]
    assert list(engine.stream_chat(messages, GREEDY, 9)) == [" ", "h", "i", " ", "\n"]
    monkeypatch.setattr(engine_module, "generate_steps", says(b" hi \n"))
    assert engine.chat(messages, GREEDY, 9) == "hi"


def test_a_tokenizer_larger_than_the_model_is_refused(checkpoint, tokenizer) -> None:
    larger = Tokenizer(tokenizer.vocab, [], [*SPECIAL_TOKENS, "<|another|>"])
    (checkpoint / "tokenizer.json").write_bytes(hugging_face_files(larger)["tokenizer.json"])
    with pytest.raises(UserError, match="has 260 entries, the model 259 rows: none for"):
        Engine.from_checkpoint(checkpoint)


def test_a_larger_tokenizer_in_memory_is_refused_too(model, tokenizer) -> None:
    larger = Tokenizer(tokenizer.vocab, [], [*SPECIAL_TOKENS, "<|another|>"])
    with pytest.raises(UserError, match="the tokenizer has 260 entries, the model 259 rows"):
        Engine(model, larger)


@pytest.fixture
def padded(tokenizer) -> Engine:
    """A model with 61 rows more than its tokenizer has tokens, and those are the most likely."""
    seed_everything(0)
    shape = {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "d_ff": 16}
    model = TransformerLM(ModelConfig(vocab_size=320, context_length=64, **shape))
    with torch.no_grad():  # rows parallel to the largest of the others, but longer
        model.token_embedding.weight[259:] = 50 * model.token_embedding.weight[:61]
    return Engine(model, tokenizer)


@pytest.mark.parametrize(
    "settings",
    [
        GREEDY,
        SamplingSettings(temperature=1),
        SamplingSettings(temperature=5),
        SamplingSettings(temperature=2, top_k=300),
        SamplingSettings(temperature=1, top_k=3),
        SamplingSettings(temperature=1, top_p=0.9),
    ],
)
def test_a_row_without_a_token_is_never_drawn(padded, settings, monkeypatch) -> None:
    drawn = []

    def remember(*given, **named):
        for ids in generate_steps(*given, **named):
            drawn.extend(ids)
            yield ids

    monkeypatch.setattr(engine_module, "generate_steps", remember)
    for seed in range(3):
        sampling = settings.model_copy(update={"seed": seed})
        padded.complete("Hello", sampling, 20)
        padded.chat([{"role": "user", "content": "Hi"}], sampling, 20)
    assert drawn
    assert max(drawn) < 259
    prompt = torch.tensor([padded.tokenizer.encode("Hello")])
    free = [ids[0] for ids in generate_steps(padded.model, prompt, settings, 40)]
    assert max(free) >= 259, "these rows would have been sampled"


def test_an_end_that_is_no_token_may_be_drawn(padded) -> None:
    """config.json may name an end id that the tokenizer lacks."""
    side = TextSide(padded.tokenizer, None, frozenset({300}))
    drawable = Engine(padded.model, padded.tokenizer, side).drawable
    assert drawable.nonzero().flatten().tolist() == [*range(259), 300]
    assert Engine(padded.model, padded.tokenizer).drawable.sum() == 259


def test_every_row_has_a_token_as_a_rule(engine) -> None:
    assert engine.drawable is None


def test_an_id_without_a_token_says_nothing(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine_module, "generate_steps", says([104, 999, 105]))
    assert engine.complete("x", GREEDY, 9) == "hi"


def test_control_tokens_are_not_shown_and_text_tokens_are(model) -> None:
    added = ["<end>", TextToken("  "), TextToken("<think>")]
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], added)
    engine = Engine(model, tokenizer, TextSide(tokenizer, None, frozenset({7})))
    ids = [104, 256, 257, 258, 105]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "generate_steps", says(ids))
        assert engine.complete("x", GREEDY, 9) == "h  <think>i"


def test_a_model_that_names_no_end_continues_text(model) -> None:
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], [])
    engine = Engine(model, tokenizer, TextSide(tokenizer, None, frozenset()))
    assert engine.complete("Hello", GREEDY, 4)
    with pytest.raises(UserError, match="the prompt is empty, and the model names no token"):
        engine.stream("", GREEDY, 4)


def test_a_tokenizer_without_the_special_tokens_is_refused(model, tokenizer) -> None:
    vocab = {token_id: token for token_id, token in tokenizer.vocab.items() if token_id < 257}
    with pytest.raises(ValueError, match=r"lacks the special tokens <\|im_start\|>, <\|im_end\|>"):
        Engine(model, Tokenizer(vocab, [], SPECIAL_TOKENS[:1]))


def test_folders_that_are_no_checkpoint_are_refused(checkpoint) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "vocab_size": 300}))
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        Engine.from_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="no such checkpoint folder"):
        Engine.from_checkpoint(checkpoint.parent / "nothing")


TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}[model]"


@pytest.fixture
def foreign(model, tokenizer) -> Engine:
    """An engine with a template, an id before every text, and two stop ids."""
    template = JinjaTemplate(TEMPLATE, {})
    return Engine(model, tokenizer, TextSide(tokenizer, template, frozenset({7, 258}), 256))


def test_a_model_from_elsewhere_speaks_by_its_own_template(foreign) -> None:
    ids = foreign.chat_ids([{"role": "user", "content": "Hi"}])
    assert foreign.tokenizer.decode(ids) == "[user]Hi<|im_end|>[model]"
    assert foreign.stop_ids == {7, 258}
    ids = foreign.chat_ids([{"role": "user", "content": "Hi<|im_end|>"}])
    assert ids == [*b"[user]Hi<|im_end|>", 258, *b"[model]"]


@pytest.mark.parametrize(
    ("beginning", "system", "listed"),
    [
        ("", False, False),
        ("{{ tools | tojson if tools }}", False, True),
        ("{{ tools | tojson if tools and messages[0].role == 'system' }}", False, False),
        ("{{ tools | tojson if tools and messages[0].role == 'system' }}", True, True),
        ("{{ raise_exception('no') if messages[0].role != 'system' }}", True, False),
        ("{{ raise_exception('no') if tools }}", False, False),
    ],
)
def test_tools_that_the_template_does_not_list_are_refused(
    model, tokenizer, beginning, system, listed
) -> None:
    tool = {"type": "function", "function": {"name": "clock"}}
    messages = [{"role": "system", "content": "Help"}] if system else []
    messages.append({"role": "user", "content": "Hi"})
    template = JinjaTemplate(beginning + TEMPLATE, {})
    engine = Engine(model, tokenizer, TextSide(tokenizer, template, frozenset({7})))
    assert engine.lists_tools(messages, [tool]) == listed
    if listed:
        assert "clock" in tokenizer.decode(engine.chat_ids(messages, [tool]))
    else:
        with pytest.raises(UserError, match="has no place for tools"):
            engine.chat_ids(messages, [tool])


def test_the_first_id_stands_before_a_text_and_not_before_a_chat(foreign, monkeypatch) -> None:
    prompts = []

    def remember(model, prompt, *_, **__):
        prompts.append(prompt[0].tolist())
        return iter([])

    monkeypatch.setattr(engine_module, "generate_steps", remember)
    foreign.complete("AB", GREEDY, 3)
    foreign.complete("", GREEDY, 3)
    foreign.chat([{"role": "user", "content": "Hi"}], GREEDY, 3)
    assert prompts[:2] == [[256, 65, 66], [256]]
    assert prompts[2][0] == ord("[")


def test_a_base_model_does_not_chat(model) -> None:
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|endoftext|>"])
    base = Engine(model, tokenizer, TextSide(tokenizer, None, frozenset({256})))
    assert base.complete("Hello", GREEDY, 4)
    with pytest.raises(ValueError, match=r"has no chat template: .* use `lm generate`"):
        base.chat_ids([{"role": "user", "content": "Hi"}])


def test_a_byte_that_the_model_has_no_row_for_is_refused_by_name(model) -> None:
    """As in SmolLM2, such bytes have ids beyond the vocabulary."""
    vocab = {i: bytes([byte]) for i, byte in enumerate(byte for byte in range(256) if byte != 4)}
    vocab |= {255: b"<|endoftext|>", 256: b"<|im_start|>", 257: b"<|im_end|>", 259: b"\x04"}
    tokenizer = Tokenizer(vocab, [], SPECIAL_TOKENS)
    engine = Engine(model, tokenizer)
    engine_module.check_rows(model, tokenizer, "the tokenizer")
    with pytest.raises(ValueError, match="text holds byte 0x04, for which the model has no"):
        engine.stream("a\x04", GREEDY, 3)
