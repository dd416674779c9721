"""Paragraphs, labels and scores, on pages small enough to count by hand."""

import pytest

from data_pipeline.main_content.page_comparison import (
    Agreement,
    compare,
    kept_words,
    page_paragraphs,
    read_labels,
    write_labels,
)
from lm_core.user_error import UserError

PAGE = """<title>T</title><nav><ul><li><a href=x>Home</a><li>Products</ul></nav>
<h1>Cats</h1><p>The <b>c</b>at sat,<br>on the mat.<script>no</script></p>
<table><tr><td>Tom</td><td>3</td></tr></table><p> - </p><footer>Home</footer>"""
PARAGRAPHS = [
    ["home"], ["products"], ["cats"], ["the", "cat", "sat", "on", "the", "mat"], ["tom"], ["3"],
    ["home"],
]  # fmt: skip
MAIN = [False, False, True, True, True, True, False]


def test_paragraphs_stand_between_block_tags():
    assert page_paragraphs(PAGE) == PARAGRAPHS
    assert page_paragraphs("<script/>a<style>b</style>") == [["a"]]


def test_labels_come_back_and_do_not_fit_another_page():
    labels = write_labels(PARAGRAPHS, [range(2, 4), range(4, 6)])
    assert "cat" not in labels
    assert read_labels(labels, PARAGRAPHS, "p") == MAIN
    changed = [*PARAGRAPHS[:3], ["another"], *PARAGRAPHS[4:]]
    for other in (PARAGRAPHS[1:], changed):
        with pytest.raises(UserError, match=r"^p: not the page that was labelled"):
            read_labels(labels, other, "p")


def test_words_are_aligned_in_the_order_of_the_page():
    assert kept_words(PARAGRAPHS, "Cats\n\n- THE cat sat | on the\nTom: 3\nHome") == [
        0, 0, 1, 5, 1, 1, 1,
    ]  # fmt: skip


def test_a_paragraph_counts_if_more_than_half_of_its_words_are_kept():
    paragraphs, words = compare(PARAGRAPHS, MAIN, "Home Cats the cat sat 3")
    assert paragraphs == Agreement(right=2, kept=3, main=4), "three of six words are not enough"
    assert words == Agreement(right=5, kept=6, main=9)
    paragraphs, words = compare(PARAGRAPHS, MAIN, "Home Cats the cat sat on 3")
    assert paragraphs == Agreement(right=3, kept=4, main=4)
    assert (paragraphs.precision, paragraphs.recall, paragraphs.f1) == (0.75, 0.75, 0.75)


def test_counts_of_pages_add_up_and_nothing_has_a_score():
    assert Agreement(1, 2, 3) + Agreement(4, 5, 6) == Agreement(5, 7, 9)
    assert (Agreement().precision, Agreement().recall, Agreement().f1) == (1.0, 1.0, 1.0)
    assert Agreement(right=2, kept=4, main=2).f1 == pytest.approx(2 / 3)
