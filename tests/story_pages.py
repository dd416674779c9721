"""HTML pages that pass every rule of quality and are not similar to each other."""

from data_pipeline.sources.warc_files import Page

SENTENCES = [
    "The {0} walked slowly along the river and thought of the long winter that was to come.",
    "Nobody had told the {0} that the bridge was closed, and so it had to turn back.",
    "In the evening the {0} sat by the fire with a cup of tea and a book about {1}.",
    "There is no better place to be than here, said the {0}, and everybody agreed with that.",
    "Write to {0}@example.org or call 283-182-3829 if you want to hear more of {1}.",
]
FOOTER = "This line stands at the end of every single page of the site."


def story(number: int) -> str:
    words = [
        f"{chr(97 + number % 26)}{chr(97 + number // 26)}{part}"
        for part in ("bear", "boat", "star")
    ]
    paragraphs = [
        s.format(words[0], words[1]) + f" {words[2].title()} number {number}." for s in SENTENCES
    ]
    return "".join(f"<p>{p}</p>" for p in paragraphs)


def html(url: str, body: str) -> Page:
    return Page(
        url, "text/html", f"<html><body>{body}<p>{FOOTER}</p></body></html>".encode(), "utf-8"
    )
