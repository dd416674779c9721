"""Which pages are held out, before any filter has seen them.

Pages that are near copies of each other are one group, and a hash of the URL of its first page
decides whether the group is held out. So the same pages are held out in every variant and in every
run, and a large group is held out as rarely as a single page. Of a held-out group, the
first page is measured on, and the others are used for nothing: a variant that keeps duplicates
would otherwise be trained on the text that it is measured on.

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


@dataclass(frozen=True)
class HeldOutPages:
    """The division of the pages, by their URLs. All others are for training.

    Attributes:
        measured: held-out pages to measure on.
        copies: near copies of these.
    """

    measured: frozenset[str]
    copies: frozenset[str]

    def is_for_training(self, url: str) -> bool:
        """Return whether the page is neither measured on nor a near copy of such a page."""
        return url not in self.measured and url not in self.copies


def hold_out(
    documents: Path, share: float, settings: MinHashSettings, scratch: Path, num_processes: int
) -> HeldOutPages:
    """Divide the pages.

    Args:
        documents: the text of every page, without any filter.
        share: expected share of the groups that are held out.
        settings: what near copies are.
        scratch: a folder for temporary files.
        num_processes: that compute signatures.
    """
    texts = (document.text for document in read_documents(documents))
    first_of = near_duplicate_clusters(texts, settings, scratch, max(num_processes, 1))
    urls = [document.url for document in read_documents(documents)]
    groups = [urls[first] for first in first_of]
    measured = frozenset(url for url in groups if url_order(url) < share * 2**64)
    in_groups = {url for url, group in zip(urls, groups, strict=True) if group in measured}
    return HeldOutPages(measured, frozenset(in_groups - measured))


def held_out_documents(documents: Path, pages: HeldOutPages) -> list[Document]:
    """Return the held-out documents of a folder in the order of their hashes: the first of them are
    a random sample.
    """
    found = [document for document in read_documents(documents) if document.url in pages.measured]
    return sorted(found, key=lambda document: (url_order(document.url), document.id))
