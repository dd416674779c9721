"""The shape of a model: all settings that determine its tensors and their computation.

What this leaves out: training settings (training/runs/training_settings.py), and the code that
computes attention, which changes the speed but not the result (transformer_lm/attention.py).
"""

from typing import Any, Literal

import pydantic

from lm_core.settings import Settings
from lm_core.user_error import UserError


class RopeScaling(Settings):
    """Rescaling of rotary frequencies for contexts longer than those of the training.

    Attributes:
        kind: "linear" (Chen et al., 2023), "llama3" (Llama team, 2024, section 3.4.2) or "yarn"
            (Peng et al., 2023, section 3); see rotary_embedding.py.
        factor: the factor by which the slow frequencies are slowed down.
        original_context_length: context length of the original training, in tokens.
        low_frequency_factor, high_frequency_factor: for llama3: the numbers of turns within the
            original context below which a frequency is fully slowed, and above which it is
            unchanged.
        beta_fast, beta_slow: the same for yarn, in the order above, below.
        attention_factor: for yarn, multiplies cosines and sines; None for 0.1 ln(factor) + 1.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float = pydantic.Field(ge=1)
    original_context_length: int = pydantic.Field(gt=0)
    low_frequency_factor: float = pydantic.Field(default=1.0, gt=0)
    high_frequency_factor: float = pydantic.Field(default=4.0, gt=0)
    beta_fast: float = pydantic.Field(default=32.0, gt=0)
    beta_slow: float = pydantic.Field(default=1.0, gt=0)
    attention_factor: float | None = pydantic.Field(default=None, gt=0)


class ModelShape(Settings):
    """The shape of a decoder, without its vocabulary.

    The defaults are the form that Llama (Touvron et al., 2023) made common: pre-norm blocks,
    SwiGLU, RMSNorm, rotary positions, grouped query heads. GPT-2 has norm = "layernorm", position =
    "learned", mlp = "gelu", biases = true.

    Attributes:
        context_length: the longest sequence, in tokens.
        d_model: width of the residual stream.
        num_layers: number of blocks.
        num_heads: number of query heads.
        num_kv_heads: number of key-value heads; each serves num_heads / num_kv_heads query heads.
        head_dim: width of a head; d_model / num_heads by default.
        d_ff: inner width of the feed-forward layer. A gated one (SwiGLU, GEGLU) has three matrices
            and the others two, so 8/3 of d_model in the former costs as much as 4 in the latter.
        norm: "rmsnorm", "layernorm" or "none".
        norm_position: "pre" normalizes the input of a branch, "post" the stream after the addition.
        position: "rotary", "learned" (a vector for each position, as in GPT-2) or "none".
        mlp: "swiglu", "gelu", "squared_relu" or "geglu".
        biases: whether linear layers have biases; the output head never has one.
        qk_norm: an RMSNorm over each head's query and key, before the rotation (Qwen3).
        sliding_window: a position sees itself and the sliding_window - 1 before it; all before it
            by default.
        rope_theta: base of the rotary frequencies.
        rope_scaling: for contexts longer than those of the training.
        norm_eps: added to the mean square (or variance) inside a norm.
        tie_embeddings: the output head is the token embedding, without separate parameters.
    """

    context_length: int = pydantic.Field(gt=0)
    d_model: int = pydantic.Field(gt=0)
    num_layers: int = pydantic.Field(gt=0)
    num_heads: int = pydantic.Field(gt=0)
    num_kv_heads: int = pydantic.Field(gt=0)
    head_dim: int = pydantic.Field(gt=0)
    d_ff: int = pydantic.Field(gt=0)
    norm: Literal["rmsnorm", "layernorm", "none"] = "rmsnorm"
    norm_position: Literal["pre", "post"] = "pre"
    position: Literal["rotary", "learned", "none"] = "rotary"
    mlp: Literal["swiglu", "gelu", "squared_relu", "geglu"] = "swiglu"
    biases: bool = False
    qk_norm: bool = False
    sliding_window: int | None = pydantic.Field(default=None, gt=0)
    rope_theta: float = pydantic.Field(default=10000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    norm_eps: float = pydantic.Field(default=1e-5, gt=0)
    tie_embeddings: bool = True

    @pydantic.model_validator(mode="before")
    @classmethod
    def _default_head_dim(cls, values: Any) -> Any:
        """Set head_dim to d_model / num_heads if it is missing.

        If these are not suitable numbers, the fields' own checks report it.
        """
        if not isinstance(values, dict) or "head_dim" in values:
            return values
        width, heads = values.get("d_model"), values.get("num_heads")
        if not (isinstance(width, int) and isinstance(heads, int) and width > 0 and heads > 0):
            return values | {"head_dim": 1}  # another field's check reports the problem
        if width % heads:
            raise UserError(
                f"num_heads = {heads} does not divide d_model = {width}; "
                "every head needs the same width"
            )
        return values | {"head_dim": width // heads}

    @pydantic.model_validator(mode="after")
    def _heads_fit(self) -> "ModelShape":
        if self.position == "rotary" and self.head_dim % 2:
            raise UserError(
                f"head_dim = {self.head_dim} (d_model = {self.d_model}, num_heads = "
                f"{self.num_heads}) is odd; rotary positions rotate pairs, so a head's width must "
                "be even"
            )
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"num_kv_heads = {self.num_kv_heads} does not divide num_heads = "
                f"{self.num_heads}; each key head serves the same number of query heads"
            )
        if self.rope_scaling is not None and self.position != "rotary":
            raise UserError(
                f"rope_scaling is given, but position is {self.position!r}; remove one of the two"
            )
        scaling = self.rope_scaling
        if scaling is not None and scaling.kind == "yarn" and self.rope_theta <= 1:
            raise UserError(
                f"rope_theta = {self.rope_theta:g} with yarn, which divides by its "
                "logarithm; it must be above 1"
            )
        return self


class ModelConfig(ModelShape):
    """A shape with its vocabulary size; a recipe gives only the shape, because the tokenizer
    determines the vocabulary.

    Attributes:
        vocab_size: size of the tokenizer's vocabulary, special tokens included.
    """

    vocab_size: int = pydantic.Field(gt=0)
