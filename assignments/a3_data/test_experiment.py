"""a3_data.21: choose bands and rows, predict what they miss, measure it."""

import pytest

pytestmark = pytest.mark.task("a3_data.21")

BANDS, ROWS = 10, 6  # for 64 hashes and a threshold of 0.8
MISSED, COMPARED = 55, 133  # of 1,000 pairs each; measured with the pairs of the handout
MISSED_EXCHANGED = 510


def curve(similarity, bands, rows):
    return 1 - (1 - similarity**rows) ** bands


def test_the_choice(answers, a3_data):
    causes = {
        "the answers for bands and rows are exchanged": 6,
        "with one row more, only 88 % of the pairs at 0.8 are found": 9,
        "with 6 rows and 10 bands, 95 % are still found, and fewer pairs are compared": 12,
        "rows need not divide the number of hashes": 16,
    }
    a3_data.check_number(answers, "bands", BANDS, causes)
    causes = {
        "the answers for bands and rows are exchanged": 10,
        "with 7 rows, only 88 % of the pairs at 0.8 are found": 7,
        "with 6 rows, 95 % are still found, and fewer pairs are compared": 5,
        "rows need not divide the number of hashes": 4,
    }
    a3_data.check_number(answers, "rows", ROWS, causes)


def test_the_predicted_share_of_missed_pairs(answers, a3_data):
    causes = {
        "this is the share that is found": 100 * curve(0.8, BANDS, ROWS),
        "the question asks for percent": 1 - curve(0.8, BANDS, ROWS),
        "bands and rows are exchanged": 100 * (1 - curve(0.8, ROWS, BANDS)),
    }
    right = 100 * (1 - curve(0.8, BANDS, ROWS))
    a3_data.check_number(answers, "predicted_missed_percent", right, causes, within=0.02)


def test_the_predicted_share_of_compared_pairs(answers, a3_data):
    causes = {
        "this is the share that is not compared": 100 * (1 - curve(0.5, BANDS, ROWS)),
        "the question asks for percent": curve(0.5, BANDS, ROWS),
        "bands and rows are exchanged": 100 * curve(0.5, ROWS, BANDS),
    }
    right = 100 * curve(0.5, BANDS, ROWS)
    a3_data.check_number(answers, "predicted_compared_percent", right, causes, within=0.02)


def test_the_missed_pairs(answers, a3_data):
    causes = {
        "these are the pairs that share a band": 1000 - MISSED,
        "this is the prediction; count the pairs": 1000 * (1 - curve(0.8, BANDS, ROWS)),
        "bands and rows are exchanged": MISSED_EXCHANGED,
    }
    a3_data.check_number(answers, "missed_pairs", MISSED, causes, within=0.5)


def test_the_compared_pairs(answers, a3_data):
    causes = {
        "these are the pairs that share no band": 1000 - COMPARED,
        "this is the prediction; count the pairs": 1000 * curve(0.5, BANDS, ROWS),
        "bands and rows are exchanged": 5,
    }
    a3_data.check_number(answers, "compared_pairs", COMPARED, causes, within=0.5)


def test_bands_and_rows_exchanged(answers, a3_data):
    causes = {
        "these are the pairs that share a band": 1000 - MISSED_EXCHANGED,
        "this is the count for 10 bands of 6 rows; the question asks for 6 bands of 10": MISSED,
        "this is the prediction; count the pairs": 1000 * (1 - curve(0.8, ROWS, BANDS)),
    }
    key = "missed_pairs_with_rows_and_bands_exchanged"
    a3_data.check_number(answers, key, MISSED_EXCHANGED, causes, within=0.5)
