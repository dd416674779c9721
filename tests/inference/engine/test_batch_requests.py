"""The number of drafts follows how many were accepted."""

from inference.engine.batch_requests import DraftLength


def test_as_many_as_the_settings_allow_at_first() -> None:
    for allowed, expected in ((0, 0), (1, 1), (2, 1), (3, 3), (6, 3), (7, 7), (8, 7), (15, 15)):
        assert DraftLength().next(allowed) == expected


def test_more_after_all_and_fewer_after_some() -> None:
    length = DraftLength()
    for num_drafts, num_accepted, expected in (
        (7, 7, 15),
        (15, 15, 15),  # 31 are not allowed
        (7, 6, 7),
        (7, 4, 7),
        (7, 3, 3),
        (7, 2, 3),
        (3, 1, 1),
        (1, 1, 3),
        (3, 3, 7),
        (2, 2, 3),  # the text had no more
        (3, 0, 1),
    ):
        length.note(num_drafts, num_accepted)
        assert length.next(20) == expected


def test_longer_and_longer_pauses_after_none() -> None:
    length = DraftLength()
    pauses = []
    for _ in range(6):
        length.note(4, 0)
        steps = 0
        while length.next(9) == 0:
            steps += 1
        pauses.append(steps)
    assert pauses == [0, 2, 4, 8, 8, 8]
    assert length.next(9) == 1
    length.note(1, 1)
    assert (length.next(9), length.misses) == (3, 0)
