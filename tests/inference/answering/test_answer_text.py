"""The text of an answer, in whole characters and without its stop string, and the tokens of it."""

import random

from inference.answering.answer_text import AnswerText
from inference.batch_scheduler import FinishReason
from inference.engine.batch_requests import NewToken

VOCAB = {byte: bytes([byte]) for byte in range(256)} | {
    256: b"<|im_end|>",
    257: b"a\xf0",
    258: b"EN",
}


def run(ids, stop=(), reason=FinishReason.STOP):
    """(shown pieces, shown ids, finish reason); the end comes without a token."""
    answer = AnswerText(VOCAB, {256}, stop)
    shown, tokens = [], []
    for event in [*(NewToken("r", i) for i in ids), NewToken("r", None, finish_reason=reason)]:
        if answer.finish_reason is not None:
            break
        text, certain = answer.push(event)
        shown.append(text)
        tokens += certain
        assert all(each.offset <= len("".join(shown)) for each in certain)
    return shown, [each.token.token_id for each in tokens], answer.finish_reason


def test_pieces_are_whole_characters():
    ids = list("é😀x".encode())
    shown, tokens, reason = run(ids)
    assert shown == ["", "é", "", "", "", "😀", "x", ""]
    assert tokens == ids and reason == "stop"
    shown, tokens, reason = run([257, 0x9F], reason=FinishReason.LENGTH)
    assert shown == ["a", "", "\ufffd"] and tokens == [257, 0x9F] and reason == "length"


def test_control_tokens_show_nothing():
    shown, tokens, _ = run([65, 256, 66])
    assert "".join(shown) == "AB" and tokens == [65, 256, 66]
    shown, tokens, _ = run([65, 9999])
    assert "".join(shown) == "A" and tokens == [65, 9999], "an id without a token"


def test_nothing_of_a_stop_string_is_shown():
    for ids in (list(b"one END"), [*b"one ", 258, ord("D")]):
        shown, tokens, reason = run([*ids, *b" more"], ["END"])
        assert "".join(shown) == "one " and bytes(tokens) == b"one " and reason == "stop"
    shown, tokens, reason = run([*b"one ", 258], ["END"], FinishReason.LENGTH)
    assert "".join(shown) == "one EN" and tokens[-1] == 258 and reason == "length"
    shown, tokens, _ = run([257, 0x9F, 0x98, 0x80], ["😀"])
    assert "".join(shown) == "a" and tokens == [257], "a token that is half shown is shown"


def test_random_texts_are_those_of_the_whole():
    draw = random.Random(0)
    for _ in range(200):
        ids = [draw.choice([97, 98, 99, 0xC3, 0xA9, 0xF0, 257, 258]) for _ in range(12)]
        whole = b"".join(VOCAB[i] for i in ids).decode(errors="replace")
        stop = draw.choice([[], ["ab"], ["aa", "bc"], ["éa"]])
        places = [whole.find(each) + len(each) for each in stop if each in whole]
        shown, tokens, _ = run(ids, stop)
        text = "".join(shown)
        if places:
            first = min(places)
            assert text == next(
                whole[: first - len(each)] for each in stop if whole[:first].endswith(each)
            )
            assert tokens == ids[: len(tokens)]
        else:
            assert (text, tokens) == (whole, ids)
