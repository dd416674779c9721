"""Words, lines and paragraphs: what is one, and that each is computed once."""

from data_pipeline.rule_sets.text_statistics import TextStatistics


def test_the_parts_of_a_text():
    page = TextStatistics("A b\n\tb  c \n \n\n\nD\r\ne\u2028f")
    assert page.words == ["A", "b", "b", "c", "D", "e", "f"]
    assert page.word_counts == {"A": 1, "b": 2, "c": 1, "D": 1, "e": 1, "f": 1}
    assert page.lines == ["A b", "b  c", "D", "e", "f"]
    assert page.paragraphs == ["A b\nb  c", "D\ne\nf"]
    assert page.lower_text.startswith("a b")


def test_nothing_has_no_parts():
    page = TextStatistics(" \n ")
    assert (page.words, page.lines, page.paragraphs) == ([], [], [])


def test_parts_are_computed_once():
    page = TextStatistics("a b")
    assert page.words is page.words
    assert page.lines is page.lines
    assert page.ngram_shares is page.ngram_shares
