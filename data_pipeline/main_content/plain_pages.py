"""Pages that are not HTML: plain text, Markdown and reStructuredText -> text to train on.

Markup loses what only a screen shows (badges, images, link targets, HTML tags). Plain text has no
markup to remove: an "<I>" or "[x](y)" in it may be code.

What this leaves out: the structure of markup (headings, emphasis and code fences stay as written).

Every pattern takes time in proportion to the text, as in text_extraction.py.
"""

import re

BLANK_LINES = re.compile(r"\n[ \t]*+(?:\n[ \t]*+)+\n")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
LINE_END = re.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")
HTML_TAG_IN_MARKDOWN = (
    r"</?(?:p|div|img|a|br|hr|h[1-6]|b|i|em|sub|sup|span|center|picture|source|table|thead|tbody"
    r"|tr|td|th|ul|ol|li|details|summary|strong|code|pre|kbd|video)\b[^<>]*+>"
)
IN_BRACKETS = r"\[[^\]\[]*+\]"
IN_PARENTHESES = r"\((?:[^()]|\([^()]*+\))*+\)"  # with one nested pair, as addresses may have
ADDRESS = r"\((?:[^()\s]|\([^()\s]*+\))*+(?:[ \n]\"[^\"]*+\")?\)"
MARKUP_PATTERNS = (
    # badges, which are images inside links; images; the same in reStructuredText
    (re.compile(rf"\[!{IN_BRACKETS}{IN_PARENTHESES}\]{IN_PARENTHESES}"), ""),
    (re.compile(rf"!{IN_BRACKETS}(?:{IN_PARENTHESES}|{IN_BRACKETS})"), ""),
    (re.compile(r"^\.\. (?:\|[^|\n]*+\| )?image::.*\n(?:[ \t]++:.*\n)*", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*+(?:\|[\w-]++\|[ \t]*+)++$", re.MULTILINE), ""),
    # lines that only define a link target; links, whose words stay
    (re.compile(r"^\[[^\]\n]++\]: *\S.*$|^\.\. _[^:\n]++: *\S.*$", re.MULTILINE), ""),
    (re.compile(rf"(?<!!)\[([^\]\[]++)\]{ADDRESS}"), r"\1"),
    (re.compile(HTML_TAG_IN_MARKDOWN, re.IGNORECASE), ""),
    # the remains of the replacements above
    (re.compile(r"(?<![ \t])[ \t]++$", re.MULTILINE), ""),
    (re.compile(r"\n{3,}"), "\n\n"),
)


def clean_plain_text(text: str) -> str:
    """Return Markdown, reStructuredText or plain text without comments, badges, images, link
    targets and HTML tags; the rest is unchanged.
    """
    text = drop_comments(text)
    for pattern, replacement in MARKUP_PATTERNS:
        text = pattern.sub(replacement, text)
    return text.strip("\n")


def drop_comments(text: str) -> str:
    """Return the text without <!-- comments -->; a comment that never ends is text."""
    kept, position = [], 0
    while (start := text.find("<!--", position)) >= 0 and (end := text.find("-->", start)) >= 0:
        kept.append(text[position:start])
        position = end + 3
    return "".join(kept) + text[position:]


def drop_control_characters(text: str) -> str:
    """Return the text without control characters; line ends and tabs stay."""
    return CONTROL_CHARACTERS.sub("", text)


def normalize_plain_text(text: str) -> str:
    r"""Return plain text as it is, except for line ends (all become "\n"), control
    characters (dropped), and blank lines (at most one at a time, none at either end).

    >>> normalize_plain_text("a <I>\r\n\r\n \r\n    b")
    'a <I>\n\n    b'
    """
    text = drop_control_characters(LINE_END.sub("\n", text)).rstrip()
    first_line = text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1
    return BLANK_LINES.sub("\n\n", text[first_line:])
