"""Which pages are held out, before any filter has seen them, and which pages are copies of them.

A hash of the URL decides, so the same pages are held out in every variant and in every run. A page
whose text is a near copy of a held-out page is used for nothing: a variant that keeps duplicates
would otherwise be trained on the text that it is measured on, and look better for that reason.

What this leaves out: passages that held-out pages share with training pages which are not near
copies.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.minhash_dedup import MinHashSettings
from data_pipeline.out_of_core.lesson_or_out_of_core import near_duplicate_clusters
from lm_core.formats.documents import Document, read_documents

MAX_CHARACTERS = 20_000  # of a held-out page, so that no page decides the result


def url_order(url: str) -> int:
    """Return 64 bits of a hash of the URL, the same on every machine."""
    content = url.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def is_held_out(url: str, share: float) -> bool:
    """Return whether a page is held out, as about `share` of all URLs are."""
    return url_order(url) < share * 2**64


@dataclass(frozen=True)
class HeldOutPages:
    """The division of the pages.

    Attributes:
        share: of the URLs that are held out.
        copies: URLs of the other pages that are near copies of held-out ones.
    """

    share: float
    copies: frozenset[str] = frozenset()

    def holds(self, url: str) -> bool:
        """Return whether the page is held out."""
        return is_held_out(url, self.share)

    def is_for_training(self, url: str) -> bool:
        """Return whether the page is neither held out nor a near copy of a held-out page."""
        return not self.holds(url) and url not in self.copies


def find_copies(
    documents: Path, share: float, settings: MinHashSettings, scratch: Path, num_processes: int
) -> list[str]:
    """Return the URLs of pages that are near copies of held-out ones, sorted.

    Args:
        documents: the text of every page, without any filter.
        share: of the URLs that are held out.
        settings: what near copies are.
        scratch: a folder for temporary files.
        num_processes: that compute signatures.
    """
    texts = (document.text for document in read_documents(documents))
    first_of = near_duplicate_clusters(texts, settings, scratch, max(num_processes, 1))
    urls = [document.url for document in read_documents(documents)]
    held = {first for first, url in zip(first_of, urls, strict=True) if is_held_out(url, share)}
    near = {url for first, url in zip(first_of, urls, strict=True) if first in held}
    return sorted(url for url in near if not is_held_out(url, share))


def held_out_documents(documents: Path, pages: HeldOutPages) -> list[Document]:
    """Return the held-out documents of a folder in the order of their hashes: the first of them are
    a random sample.
    """
    found = [document for document in read_documents(documents) if pages.holds(document.url)]
    return sorted(found, key=lambda document: (url_order(document.url), document.id))
