"""samples.json depends on the checkpoints and the settings alone."""

import json

from inference.engine.sample_texts import SampleSettings, write_samples
from inference.sampling import SamplingSettings


def test_the_file_is_what_is_returned_and_the_same_every_time(engine, tmp_path) -> None:
    settings = SampleSettings(
        prompts=["a", "a"],
        questions=["b"],
        max_new_tokens=6,
        sampling=SamplingSettings(temperature=2.0),
    )
    path = tmp_path / "samples.json"
    samples = write_samples(engine, {"sft": engine, "dpo": engine}, settings, path)
    assert json.loads(path.read_text()) == samples
    first = path.read_bytes()
    write_samples(engine, {"sft": engine, "dpo": engine}, settings, path)
    assert path.read_bytes() == first
    texts = [row["text"] for row in samples["completions"]]
    assert texts[0] != texts[1], "each prompt has its own seed"
    replies = samples["chat"][0]["replies"]
    assert [reply["label"] for reply in replies] == ["sft", "dpo"]
    assert replies[0]["text"] == replies[1]["text"], "the same engine, seed and question"
