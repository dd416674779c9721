"""Examples that are spread over the input, and the counts of one step."""

from hashlib import blake2b

from data_pipeline.executors.step_counts import (
    EXAMPLES,
    NAMED_PAGES,
    NAMED_SOURCES,
    Examples,
    StepCount,
    finished_rows,
)


def numbers(examples):
    return [int(example["url"]) for example in examples.listed()]


def test_examples_are_the_same_in_every_run_and_not_the_first_ones():
    examples = Examples()
    for number in range(1000):
        examples.add(number, str(number), "x" * 400)
    hashes = {
        n: blake2b(b"examples of the documents" + n.to_bytes(8, "little"), digest_size=8).digest()
        for n in range(1000)
    }
    by_hash = sorted(hashes, key=lambda n: int.from_bytes(hashes[n], "little"))
    assert numbers(examples) == by_hash[:EXAMPLES]
    assert {len(example["text"]) for example in examples.listed()} == {300}


def test_a_longer_input_keeps_the_smallest_hashes():
    few, many = Examples(), Examples()
    for number in range(1000):
        many.add(number, str(number), "")
        if number < 700:
            few.add(number, str(number), "")
    assert set(numbers(many)) - set(range(700, 1000)) <= set(numbers(few))


def test_fewer_than_asked_for_are_all_kept():
    examples = Examples()
    examples.add(3, "3", "a")
    assert examples.listed() == [{"url": "3", "text": "a"}]


def test_a_step_counts_reasons_names_and_examples():
    count = StepCount("quality rules")
    count.kept(10, 8, "http://x/0", "kept")
    count.dropped(7, "other", "http://x/31", "odd")  # a page that could be read is not named
    for number in range(1, 31):
        count.dropped(5, "too short", f"http://x/{number}", "short", f"a: http://x/{number}")
    assert count.row == {
        "step": "quality rules",
        "documents_in": 32,
        "documents_out": 1,
        "bytes_in": 10 + 150 + 7,
        "bytes_out": 8,
        "dropped": {"too short": 30, "other": 1},
        "named": [f"a: http://x/{number}" for number in range(1, NAMED_PAGES + 1)],
    }
    shown = count.shown_examples()
    assert shown["kept"] == [{"url": "http://x/0", "text": "kept"}]
    assert shown["dropped"]["other"] == [{"url": "http://x/31", "text": "odd"}]
    assert len(shown["dropped"]["too short"]) == EXAMPLES


def counted(*given):
    """Two steps that drop the documents of the sources in lower case, and half of the rest."""
    sources = {}
    first, second = StepCount("first", sources), StepCount("second", sources)
    for number, source in enumerate(given):
        if source == source.lower():
            first.dropped(1, "small", "", "", source=source)
            continue
        first.kept(1, 1, "", "", source)
        if number % 2:
            second.kept(1, 1, "", "", source)
        else:
            second.dropped(1, "even", "", "", "a problem", source)
    return finished_rows([first, second])


def test_the_largest_sources_are_counted_in_every_step():
    first, second = counted("a", "B", "B", "B", "C", "C", "a")
    assert first["sources"] == [
        {"source": "B", "documents_in": 3, "documents_out": 3},
        {"source": "a", "documents_in": 2, "documents_out": 0},
        {"source": "C", "documents_in": 2, "documents_out": 2},
    ]
    assert [list(row.values()) for row in second["sources"]] == [
        ["B", 3, 2],
        ["a", 0, 0],
        ["C", 2, 1],
    ]
    assert second["named"] == ["a problem"] * 2


def test_many_sources_are_summed_after_the_first_twenty():
    given = [f"N{number}" for number in range(30)] + ["LARGE"] * 2
    for row, out in zip(counted(*given), (30 + 2, 15 + 1), strict=True):
        assert len(row["sources"]) == NAMED_SOURCES + 1
        assert [source["source"] for source in row["sources"][:3]] == ["LARGE", "N0", "N1"]
        assert {key: row["sources"][-1][key] for key in ("source", "files")} == {
            "source": "",
            "files": 11,
        }
        assert sum(source["documents_out"] for source in row["sources"]) == out
        assert sum(source["documents_in"] for source in row["sources"]) == 32


def test_one_source_needs_no_counts_of_its_own():
    assert all("sources" not in row for row in counted("A", "A", "A"))
