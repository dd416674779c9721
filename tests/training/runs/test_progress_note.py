"""The note beside the progress bar."""

from training.runs.progress_note import WIDTH, ProgressNote
from training.runs.training_run import TrainingState


def row(step: int, loss: float, **more) -> dict:
    return {"step": step, "loss": loss, "tokens_per_second": 1234.5, **more}


def test_off_a_terminal_it_is_plain():
    state = TrainingState("float32", validation_after={"validation_loss": 1.25, "other": 2.0})
    note = ProgressNote(100, is_live=False).after(row(1, 4.0, mfu=0.4), state)
    assert note == "loss 4.00 · 1,234 tokens/s · validation loss 1.250"


def test_the_curve_has_a_character_for_each_part_of_the_run_so_far():
    note, state = ProgressNote(4 * WIDTH, is_live=True), TrainingState("float32")
    texts = [note.after(row(step, 9.0 - step / 8), state) for step in range(1, 4 * WIDTH + 1)]
    assert texts[0].startswith("▁ loss 8.88"), "one value has no height"
    assert texts[4].startswith("█▁ loss")
    assert texts[-1].startswith("██▇▇▆▆▅▅▄▄▃▃▂▂▁▁ loss 1.00")


def test_the_utilization_that_was_measured_last_stays():
    note, state = ProgressNote(10, is_live=True), TrainingState("float32")
    assert "MFU" not in note.after(row(1, 4.0), state)
    assert note.after(row(2, 4.0, mfu=0.37), state).endswith(" · 37% MFU")
    assert note.after(row(3, 4.0), state).endswith(" · 37% MFU")


def test_a_resumed_run_starts_its_curve_where_it_resumes():
    note = ProgressNote(4 * WIDTH, is_live=True)
    assert note.after(row(33, 2.0), TrainingState("float32")).startswith("▁ loss 2.00")
