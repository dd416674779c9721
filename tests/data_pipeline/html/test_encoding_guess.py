"""Pages without a declaration: UTF-8 stays, the usual charsets of other languages are found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.html.encoding_guess import guess_encoding
from data_pipeline.html.page_encoding import decode, decode_page

pytest.importorskip("resiliparse", reason="needs resiliparse: run `make setup`")

SENTENCES = {
    "ko": "언어 모델은 다음에 올 낱말을 예측한다. 이 과정을 마치면 스스로 만든 모델이 대답한다.",
    "ja": "言語モデルは次の単語を予測します。この課程を終えると、自分で作ったモデルが答えます。",
    "zh": "语言模型预测句子中的下一个词。完成这门课程以后，你自己训练的模型会回答问题。",
    "ru": "Языковая модель предсказывает, какое слово будет следующим. Для этого нужен текст.",
    "de": "Ein Sprachmodell sagt das nächste Wort vorher – „größer“ heißt nicht immer „klüger“.",
    "en": "It’s a “language model” – it predicts the next word. The café’s résumé isn’t naïve…",
}


@pytest.mark.parametrize(
    ("language", "codec", "encoding"),
    [
        ("ko", "cp949", "euc-kr"),
        ("ja", "cp932", "shift_jis"),
        ("ja", "euc_jp", "euc-jp"),
        ("zh", "gb18030", "gb18030"),
        ("ru", "cp1251", "windows-1251"),
        ("ru", "koi8_r", "koi8-r"),
        ("de", "cp1252", "windows-1252"),
        ("en", "cp1252", "windows-1252"),
    ],
)
def test_the_usual_charsets(language, codec, encoding):
    page = f"<html><body>{f'<p>{SENTENCES[language]}</p>' * 4}</body></html>"
    assert guess_encoding(page.encode(codec)) == encoding
    assert decode_page(page.encode(codec)) == page


@pytest.mark.parametrize("language", SENTENCES)
def test_damaged_utf8_stays_utf8(language):
    whole = SENTENCES[language].encode()
    for damaged in (whole, whole[:-1], whole + b"\x93", b"\xff" + whole, whole + "é".encode()[:1]):
        assert guess_encoding(damaged) == "utf-8"


@given(st.text())
def test_valid_utf8_is_never_taken_for_anything_else(text):
    assert guess_encoding(text.encode()) == "utf-8"


@given(st.binary(max_size=200))
def test_any_bytes_get_an_encoding_that_can_be_decoded(payload):
    decode(payload, guess_encoding(payload)).encode("utf-8")


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        (None, "windows-1252"),
        ("iso-2022-kr", "windows-1252"),  # the web reads it as no text at all
        ("utf-16le", "windows-1252"),
        ("ebcdic", "windows-1252"),
        ("iso8859-1", "windows-1252"),
        ("uhc", "euc-kr"),
        ("euc_jp", "euc-jp"),
    ],
)
def test_what_the_library_says_becomes_a_name_of_the_standard(name, encoding, monkeypatch):
    monkeypatch.setattr("resiliparse.parse.encoding.detect_encoding", lambda *_, **__: name)
    assert guess_encoding(b"\xe9\xe9") == encoding
    assert guess_encoding("é".encode() + b"\xff") == "utf-8", "as many valid as not"
