"""Lines of `lm data shard` about the sources."""

from lm_course.data_steps.shards import SOURCES_SHOWN, lines_of_sources


def counts(documents: int, tokens: int, epochs: float) -> dict[str, float]:
    return {"documents": documents, "tokens": tokens, "epochs": epochs}


def test_sources_are_shown_with_their_epochs_most_tokens_first() -> None:
    lines = lines_of_sources({"books": counts(20, 250, 1.7), "web": counts(1000, 750, 0.5)})
    assert [line.split() for line in lines] == [
        ["web", "1,000", "documents", "750", "tokens", "(", "75.0%)", "0.5", "epochs"],
        ["books", "20", "documents", "250", "tokens", "(", "25.0%)", "1.7", "epochs"],
    ]
    assert len({line.index("documents") for line in lines}) == 1, "the columns are aligned"


def test_one_source_that_is_read_once_needs_no_table() -> None:
    assert lines_of_sources({"web": counts(5, 50, 1)}) == []
    assert len(lines_of_sources({"web": counts(10, 100, 2)})) == 1


def test_many_sources_are_cut_off() -> None:
    lines = lines_of_sources({f"file {n}": counts(1, 1, 1) for n in range(SOURCES_SHOWN + 3)})
    assert lines[SOURCES_SHOWN:] == ["  and 3 more sources"]
