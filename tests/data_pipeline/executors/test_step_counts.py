"""Examples that are spread over the input, and the counts of one step."""

from hashlib import blake2b

from data_pipeline.executors.step_counts import EXAMPLES, NAMED_PAGES, Examples, StepCount


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
