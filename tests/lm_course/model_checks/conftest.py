"""A small Llama that `transformers` made, as a folder and as the two models."""

from pathlib import Path

import pytest
import torch
import transformers

from lm_course.model_checks.compared_models import ComparedModels, load_both


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks with weights far from their initialization, written by `transformers`."""
    config = transformers.LlamaConfig(
        vocab_size=101,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> ComparedModels:
    """Both models. Do not change them: copy ours with `with_weights_in`."""
    return load_both(llama_folder)
