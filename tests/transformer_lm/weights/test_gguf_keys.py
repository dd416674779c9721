"""Every key of the package `gguf` is supported, or rejected by name unless it has its neutral
value.
"""

import gguf
import numpy as np
import pytest

from lm_core.formats.gguf_container import GGUFFile, GGUFTensor
from lm_core.user_error import UserError
from transformer_lm.weights.gguf_keys import (
    COMPUTED,
    HARMLESS,
    ROPE_KEYS,
    SHAPE_KEYS,
    neutral_values,
)
from transformer_lm.weights.gguf_layout import gguf_config

NOTHING = np.empty(0, np.uint8)
HARMLESS_IN_ALL = {"rope.scaling.finetuned": True, "vocab_size": 500}


def file_of(architecture: str, **changes: object) -> GGUFFile:
    """Return the metadata of a small model, and the two tensors that the config needs."""
    epsilon = "layer_norm_epsilon" if architecture == "gpt2" else "layer_norm_rms_epsilon"
    values = {
        "context_length": 64,
        "embedding_length": 48,
        "block_count": 3,
        "feed_forward_length": 80,
        "attention.head_count": 6,
        "attention.head_count_kv": 6,
        f"attention.{epsilon}": 1e-3,
    } | changes
    metadata = {f"{architecture}.{name}": value for name, value in values.items()}
    tensors = {
        "token_embd.weight": GGUFTensor("F32", (131, 48), NOTHING),
        "blk.2.attn_norm.weight": GGUFTensor("F32", (48,), NOTHING),
    }
    return GGUFFile({"general.architecture": architecture} | metadata, tensors)


def templates(group: type) -> list[str]:
    """Return the keys of gguf's constants, of all groups below `group`."""
    found = []
    for name, value in vars(group).items():
        if isinstance(value, type):
            found += templates(value)
        elif not name.startswith("_") and isinstance(value, str) and value.startswith("{arch}."):
            found.append(value.removeprefix("{arch}."))
    return found


KNOWN_TO_GGUF = sorted({*templates(gguf.Keys)})
VALUES = (3, 0.37, True, [1, 2], "some")


def test_the_package_has_the_keys_that_this_test_is_about() -> None:
    assert len(KNOWN_TO_GGUF) > 90
    assert {"rope.scaling.yarn_ext_factor", "logit_scale", "ssm.conv_kernel"} < {*KNOWN_TO_GGUF}


@pytest.mark.parametrize("architecture", COMPUTED)
@pytest.mark.parametrize("name", KNOWN_TO_GGUF)
def test_no_key_is_overlooked(architecture: str, name: str) -> None:
    """With any value, the file is rejected in a line that names the key, or the config has the key,
    or the key does not affect the numbers.
    """
    _, plain = gguf_config(file_of(architecture))
    for value in VALUES:
        if file_of(architecture).metadata.get(f"{architecture}.{name}") == value:
            continue
        try:
            _, config = gguf_config(file_of(architecture, **{name: value}))
        except UserError as error:
            # An inconsistent shape is reported by the names of its settings.
            assert (name in str(error) or name in SHAPE_KEYS) and "\n" not in str(error)
            continue
        is_neutral = name in (neutral := neutral_values(architecture, plain))
        assert (
            config != plain
            or name in HARMLESS
            or (is_neutral and neutral[name].holds(value))
            or (name.startswith("rope.scaling.yarn_beta") and architecture != "gpt2")  # no yarn
            or (name == "rope.scaling.original_context_length" and architecture != "gpt2")
        ), f"{name} = {value!r} is ignored"


@pytest.mark.parametrize("architecture", COMPUTED)
def test_the_neutral_values_pass_and_change_nothing(architecture: str) -> None:
    _, plain = gguf_config(file_of(architecture))
    by_words = {"0": 0, "1": 1.0, "0 (none)": 0, "a window in all layers": [True, True]}
    by_words |= {"reference": "reference", "reference or Meta AI original pth": "reference"}
    by_words |= {"True": True, "'none'": "none"}
    for name, neutral in neutral_values(architecture, plain).items():
        if name in COMPUTED[architecture]:
            continue
        words = neutral.words
        value = by_words[words] if words in by_words else float(words) if "." in words else None
        value = int(words) if value is None else value
        _, config = gguf_config(file_of(architecture, **{name: value}))
        assert config == plain, name
    _, config = gguf_config(file_of(architecture, **HARMLESS_IN_ALL))
    assert config == plain


def test_a_key_that_nobody_has_heard_of_is_refused_and_a_remark_is_not() -> None:
    with pytest.raises(UserError, match=r"llama\.attention\.twist is 0: this key is unknown"):
        gguf_config(file_of("llama", **{"attention.twist": 0}))
    file = file_of("llama")
    file.metadata.update({"quantize.imatrix.file": "a", "general.name": "b", "mine.twist": 3})
    file.metadata.update({"qwen3.logit_scale": 3.0, "general.type": "model"})
    assert gguf_config(file) == gguf_config(file_of("llama"))


REFUSED = [
    ({"logit_scale": 0.0625}, "llama.logit_scale is 0.0625, but only 1 is supported"),
    ({"residual_scale": 0.22}, "llama.residual_scale is 0.22, but only 1 is supported"),
    ({"embedding_scale": 12.0}, "llama.embedding_scale is 12.0, but only 1 is supported"),
    (
        {"attention.scale": 0.015625},
        "llama.attention.scale is 0.015625, but only 0.35355339",
    ),
    ({"attention.clamp_kqv": 8.0}, "llama.attention.clamp_kqv is 8.0, but only 0 is supported"),
    ({"attention.causal": False}, "llama.attention.causal is False, but only True is supported"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0, but only 0"),
    ({"pooling_type": 3}, r"llama.pooling_type is 3, but only 0 \(none\) is supp"),
    ({"expert_used_count": 2}, "llama.expert_used_count is 2, but only 0 is supported"),
    ({"use_parallel_residual": True}, "use_parallel_residual is True, but only 0 is supported"),
    ({"rope.dimension_sections": [4, 4, 0, 0]}, r"dimension_sections is \[4, 4, 0, 0\], but only"),
    ({"attention.sliding_window_pattern": [True, False]}, "only a window in all layers is"),
    ({"feed_forward_length": [80, 80, 96]}, "feed_forward_length differs from layer to layer"),
    ({"attention.head_count": 2.5}, "attention.head_count is 2.5, expected a whole number from 1"),
    ({"block_count": 10**9}, "llama.block_count is 1,000,000,000, but there are fewer blocks"),
    ({"context_length": 10**12}, "a context of 1,000,000,000,000 tokens is more than the"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_is_not_computed_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        gguf_config(file_of("llama", **changes))


def test_a_list_that_is_the_same_in_every_layer_is_one_number() -> None:
    _, config = gguf_config(file_of("llama", **{"attention.head_count_kv": [2, 2, 2]}))
    assert config.num_kv_heads == 2


def test_other_kinds_of_files_and_of_blocks_are_refused() -> None:
    file = file_of("llama")
    for kind in ("adapter", "mmproj"):
        file.metadata["general.type"] = kind
        with pytest.raises(UserError, match=f"general.type is '{kind}': the file does not contain"):
            gguf_config(file)
    file.metadata["general.type"] = "model"
    file.metadata["general.quantization_version"] = 1
    assert gguf_config(file)  # nothing in it is quantized
    file.tensors["blk.0.ffn_up.weight"] = GGUFTensor("Q4_0", (80, 64), NOTHING)
    with pytest.raises(UserError, match="quantization_version is 1: only version 2 is supp"):
        gguf_config(file)


def test_no_key_stands_in_two_tables() -> None:
    for architecture, names in COMPUTED.items():
        _, plain = gguf_config(file_of(architecture))
        rotary = ROPE_KEYS if architecture != "gpt2" else ()
        listed = [*names, *HARMLESS, *rotary]
        assert len(listed) == len({*listed})
        assert not {*names, *HARMLESS, *rotary} & neutral_values(architecture, plain).keys()
