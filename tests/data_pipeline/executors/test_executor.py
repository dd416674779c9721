"""The rules by which items are run again or lost, without any worker."""

from data_pipeline.executors.executor import CHANCES, KILLED, Jobs, run_items


def lost(item, reason):
    return (item, reason)


def jobs(*batches, ahead=10):
    return Jobs(batches, lost, ahead)


def drain(work, at_end):
    """Run all jobs; `at_end(job)` says what happens to each, or None if it succeeds."""
    seen, results = [], []
    while not work.done:
        while (job := work.next()) is not None:
            seen.append(list(job.items))
            if at_end(job) is None:
                work.finished(job, [item.upper() for item in job.items])
        results += work.results()
    return seen, results


def test_a_known_item_is_run_by_itself_and_then_lost():
    work = jobs(["a", "x", "b"], ["c"])

    def end(job):
        if "x" in job.items:
            work.ended_at(job, job.items.index("x"), KILLED)
            return KILLED
        return None

    seen, results = drain(work, end)
    assert seen == [["a", "x", "b"], ["x"], ["a"], ["b"], ["c"]]
    assert results == [["A", ("x", KILLED), "B"], ["C"]]


def test_an_unknown_item_is_found_by_the_batch_again_and_then_item_by_item():
    work = jobs(["a", "x", "b"])

    def end(job):
        if "x" in job.items:
            work.ended_somewhere(job, KILLED)
            return KILLED
        return None

    seen, results = drain(work, end)
    assert seen == [["a", "x", "b"]] * 2 + [["a"], ["x"], ["b"]]
    assert results == [["A", ("x", KILLED), "B"]]


def test_what_is_known_before_the_end_is_not_run_again():
    work = jobs(["a", "b", "x", "c"])
    job = work.next()
    work.finished(job, ["A", "B"])
    work.ended_at(job, 2, KILLED)
    assert work.next().items == ["x"]
    assert work.next().items == ["c"]
    assert work.next() is None


def test_one_end_of_a_worker_loses_nothing():
    ends = []
    work = jobs(["a", "b"])

    def end(job):
        if not ends:
            ends.append(job)
            work.ended_somewhere(job, KILLED)
            return KILLED
        return None

    assert drain(work, end)[1] == [["A", "B"]]
    assert CHANCES == 2


def test_batches_wait_for_an_earlier_one():
    work = jobs(*[[str(n)] for n in range(20)], ahead=3)
    first = work.next()
    for _ in range(2):
        job = work.next()
        work.finished(job, job.items)
    assert work.next() is None
    assert list(work.results()) == []
    work.finished(first, first.items)
    assert list(work.results()) == [["0"], ["1"], ["2"]]
    assert work.next().items == ["3"]


def test_memory_ends_a_job_at_its_item():
    def function(item):
        if item == "x":
            raise MemoryError
        return item

    begun = []
    assert run_items(function, ["a", "x", "b"], begun.append) == (["a"], True)
    assert begun == [0, 1]
    assert run_items(function, ["a"], begun.append) == (["a"], False)
