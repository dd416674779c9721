"""`lm import` turns another program's model into a checkpoint folder, and `lm export` turns a
checkpoint into a folder that `transformers` loads, or a GGUF file. Also the engine of `lm chat` and
`lm generate`.

Nothing is written until the whole source has been read and found to fit; the folder appears all at
once. What this leaves out: downloading (`huggingface-cli download` does it), and training on an
imported model, whose folder is a checkpoint like any other.
"""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lm_core.user_error import UserError

if TYPE_CHECKING:
    import torch

    from inference.engine.engine import Engine

FOLDER_FILES = (
    "tokenizer.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
)
FOLDER_SUFFIXES = (".safetensors", ".json", ".bin", ".pt", ".pth", ".jinja", ".txt")
ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
CHAT_DRAFTS = 7  # cost nothing where they are seldom right (inference/README.md)
DTYPES = ("float32", "bfloat16", "float16")


def engine_for(checkpoint: Path | None, model: Path | None) -> "Engine":
    """Return the engine for --checkpoint or --model, or else for the last checkpoint of runs/demo.

    Raises ValueError if both are given, or if what is named does not exist.
    """
    return engine_at(chosen_model(checkpoint, model))


def chosen_model(checkpoint: Path | None, model: Path | None) -> Path:
    """Return the checkpoint folder, model folder or GGUF file that `engine_for` loads."""
    from lm_course.commands.checkpoint_choice import chosen_checkpoint
    from lm_course.commands.named_models import model_path

    if model is None:
        return chosen_checkpoint(checkpoint)
    if checkpoint is not None:
        raise UserError("--checkpoint and --model were both given; give only one of them")
    model = model_path(model)
    check_source(model)
    return model


def engine_at(path: Path) -> "Engine":
    """Return the engine for a folder or a GGUF file."""
    from inference.engine.engine import Engine

    return Engine.from_gguf(path) if path.is_file() else Engine.from_checkpoint(path)


def chat_engine_at(path: Path) -> "Engine":
    """Return the engine for a folder or a GGUF file that keeps its cache between texts, if the
    compiled pass computes the model; another pass is slower over blocks than without.
    """
    from inference.engine.batch_requests import BatchSettings
    from inference.engine.chat_engine import ChatEngine
    from inference.engine.forward_choice import is_compiled
    from lm_course.serving.cache_memory import cache_tokens, cached_model
    from lm_course.serving.warm_up import warm_up

    engine = engine_at(path)
    if not is_compiled(engine.model):
        return engine
    settings = BatchSettings(num_drafts=CHAT_DRAFTS)
    [room] = cache_tokens([cached_model(engine.model)], None, settings.block_size)
    chat_engine = ChatEngine(engine, settings.model_copy(update={"cache_tokens": room}))
    warm_up(chat_engine.batch, path.stem)
    return chat_engine


def check_source(source: Path) -> None:
    """Raise ValueError unless `source` is a GGUF file or a folder with a model's config.json."""
    from lm_course.commands.named_models import NAMED_MODELS

    if not source.exists():
        raise UserError(
            f"{source}: no such folder or file; models known by name: {', '.join(NAMED_MODELS)}"
        )
    if source.suffix.lower() in FOLDER_SUFFIXES and not source.is_dir():
        raise UserError(
            f"{source}: this is one file of a model's folder, but the config, the tokenizer "
            f"and the weights are all needed; name the folder: {source.parent}"
        )
    if source.is_dir() and not (source / "config.json").is_file():
        held = sorted(source.glob("*.gguf"))
        what = (
            f"the GGUF file in it: {held[0]}"
            if held
            else f"one of the checkpoints in it: {max(steps)}"
            if (steps := list(source.glob("step_*")))
            else "a Hugging Face model folder or a GGUF file"
        )
        raise UserError(f"{source}: has no config.json; name {what}")


def check_target(folder: Path) -> None:
    """Raise ValueError if `folder` exists and is not an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: already exists; name another folder, or remove it first")


def import_model(source: Path, folder: Path, dtype: str | None = None) -> str:
    """Read a Hugging Face model folder or a GGUF file, and write a checkpoint folder.

    Args:
        source: the folder, the file, or a name in NAMED_MODELS.
        folder: must not exist yet.
        dtype: one of DTYPES; None for the source's, or for float32 if the source is quantized.

    Returns:
        One line: family, parameters, context length, dtype.

    Raises:
        ValueError: the source cannot be read here, or `folder` already exists.
    """
    import torch

    from lm_course.commands.named_models import model_path

    source = model_path(source)
    check_source(source)
    check_target(folder)
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: expected {', '.join(DTYPES)}")
    wanted = None if dtype is None else getattr(torch, dtype)
    if source.is_file():
        return _import_gguf(source, folder, wanted or torch.float32)
    return _import_folder(source, folder, wanted)


def _import_gguf(source: Path, folder: Path, dtype: "torch.dtype") -> str:
    from inference.engine.engine import check_rows
    from inference.engine.text_side import text_side_of_gguf
    from lm_core.formats.checkpoint_files import write_checkpoint
    from lm_core.formats.gguf_container import read_gguf
    from tokenizer_bpe.formats.gguf_vocabulary import named_tokens
    from tokenizer_bpe.formats.missing_bytes import without_added_bytes
    from tokenizer_bpe.tokenizer_file import hugging_face_files
    from transformer_lm.weights.gguf_file import load_gguf, types_by_size
    from transformer_lm.weights.pretrained import to_hugging_face

    file = read_gguf(source)
    try:
        side = text_side_of_gguf(file)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    model = load_gguf(source, dtype=dtype, file=file)
    check_rows(model, side.tokenizer, f"the vocabulary of {source}")
    roles = named_tokens(file)
    ids = {f"{role}_id": side.tokenizer.special_tokens.get(text) for role, text in roles.items()}
    ids["eos_token_id"] = sorted(side.stop_ids or ())
    template = side.template.text if side.template is not None else None
    files = hugging_face_files(side.tokenizer, template, roles)
    files["tokenizer.json"] = without_added_bytes(files["tokenizer.json"], model.config.vocab_size)
    if side.first_id is not None:
        described = json.loads(files["tokenizer_config.json"]) | {"add_bos_token": True}
        files["tokenizer_config.json"] = json.dumps(described, indent=2).encode() + b"\n"
    tensors, config = to_hugging_face(model, ids)
    write_checkpoint(folder, tensors, config, files, None)
    return f"{_described(model, config)}, unpacked from {', '.join(types_by_size(file))}"


def _import_folder(source: Path, folder: Path, dtype: "torch.dtype | None") -> str:
    from inference.engine.engine import check_rows
    from inference.engine.text_side import TOKENIZER_FILE, text_side_of_folder
    from lm_core.formats.checkpoint_files import write_checkpoint
    from transformer_lm.weights.pretrained import load_model, to_hugging_face

    model = load_model(source, dtype=dtype)
    side = text_side_of_folder(source)
    check_rows(model, side.tokenizer, f"{source / TOKENIZER_FILE}")
    tensors, config = to_hugging_face(model, _token_ids(source))
    write_checkpoint(folder, tensors, config, _companions(source), None)
    return f"{_described(model, config)}, not quantized"


def export_model(checkpoint: Path, folder: Path) -> str:
    """Write a checkpoint as a folder that `transformers` loads unchanged.

    Args:
        checkpoint: a checkpoint folder, or a run's folder, whose last checkpoint is taken.
        folder: must not exist yet, nor be called like a GGUF file.

    Returns:
        One line, as in `import_model`.

    Raises:
        ValueError: there is no checkpoint, `transformers` has no family for its shape, or `folder`
            already exists or ends in .gguf.
    """
    from lm_core.formats.checkpoint_files import write_checkpoint
    from lm_course.commands.checkpoint_choice import chosen_checkpoint
    from transformer_lm.weights.pretrained import hugging_face_family, load_model, to_hugging_face

    check_target(folder)
    if folder.suffix == ".gguf":
        raise UserError(f"{folder}: for a GGUF file, add --gguf q8_0, q4_0 or f16")
    source = chosen_checkpoint(checkpoint)
    model = load_model(source, dtype=None)
    try:
        hugging_face_family(model.config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    tensors, config = to_hugging_face(model, _token_ids(source))
    write_checkpoint(folder, tensors, config, _companions(source), None)
    return _described(model, config)


def export_gguf_file(checkpoint: Path, path: Path, kind: str) -> str:
    """Write a checkpoint as a GGUF file, with its tokenizer and chat template.

    Args:
        checkpoint: as in `export_model`.
        path: must end in .gguf, and must not exist yet.
        kind: the type of the matrices: q8_0, q4_0 or f16.

    Returns:
        One line: architecture, parameters, type, size.

    Raises:
        ValueError: there is no checkpoint, the kind is not known, the model or its tokenizer cannot
            be written as GGUF, or `path` already exists.
    """
    from inference.engine.engine import check_rows
    from inference.engine.text_side import TOKENIZER_FILE, text_side_of_folder
    from inference.quantized_files.gguf_export import check_kind, export_gguf, gguf_architecture
    from lm_course.commands.checkpoint_choice import chosen_checkpoint
    from tokenizer_bpe.templates.jinja_template import special_roles, token_texts, tokenizer_config
    from transformer_lm.model_cost import count_parameters
    from transformer_lm.weights.pretrained import load_model

    check_kind(kind)
    if path.suffix != ".gguf":
        raise UserError(f"{path}: with --gguf, the target is a file whose name ends in .gguf")
    if path.exists():
        raise UserError(f"{path}: already exists; name another file, or remove it first")
    source = chosen_checkpoint(checkpoint)
    model, side = load_model(source), text_side_of_folder(source)
    check_rows(model, side.tokenizer, f"{source / TOKENIZER_FILE}")
    roles = token_texts(special_roles(source, tokenizer_config(source)))
    try:
        wider = export_gguf(path, model, side, roles, kind)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    line = (
        f"{gguf_architecture(model.config)}: {count_parameters(model.config):,} parameters, "
        f"{kind}, {path.stat().st_size:,} bytes"
    )
    if wider:
        line += f"; {len(wider)} matrices in f16, because their rows are not blocks of 32"
    return line


def other_servers(target: Path) -> list[str]:
    """Return two lines: how vLLM or llama.cpp serves what was exported, and how it is measured.

    Args:
        target: an exported folder or GGUF file.
    """
    from tokenizer_bpe.templates.jinja_template import read_template

    named = shlex.quote(str(target))
    if target.is_file():
        server, port, api = f"llama.cpp: llama-server -m {named}", 8080, ""
    else:  # vLLM refuses chats with a model that has no template
        server, port = f"vLLM: vllm serve {named}", 8000
        api = "" if read_template(target) is not None else " --api completions"
    measure = f"measure that server: lm bench serve --url http://127.0.0.1:{port}/v1{api}"
    return [f"serve it with {server}", measure]


def _token_ids(folder: Path) -> dict[str, Any]:
    """Return the ids of the special tokens that a folder's config.json names."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: config[key] for key in ID_KEYS if key in config}


def _companions(folder: Path) -> dict[str, bytes]:
    """Return the files that accompany the weights, unchanged."""
    present = [folder / name for name in FOLDER_FILES if (folder / name).is_file()]
    return {path.name: path.read_bytes() for path in present}


def _described(model: Any, config: dict[str, Any]) -> str:
    from transformer_lm.model_cost import count_parameters

    shape = model.config
    return (
        f"{config['model_type']}: {count_parameters(shape):,} parameters, context "
        f"{shape.context_length:,} tokens, {config['dtype']}"
    )


def register(app: typer.Typer) -> None:
    """Add `lm import` and `lm export`."""

    @app.command("import")
    def import_command(
        source: Annotated[
            Path,
            typer.Argument(help="A Hugging Face model folder, a GGUF file, or the name smollm2."),
        ],
        folder: Annotated[Path, typer.Argument(help="The checkpoint folder to create.")],
        dtype: Annotated[
            str | None,
            typer.Option(
                help=f"The type of the weights: {', '.join(DTYPES)}; by default the source's."
            ),
        ] = None,
    ) -> None:
        """Turn another program's model into a checkpoint folder."""
        print(import_model(source, folder, dtype))
        print(f"written to {folder}; chat with it: lm chat --model {folder}")

    @app.command("export")
    def export_command(
        checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder, or a run's folder.")],
        target: Annotated[
            Path, typer.Argument(help="The folder to create; with --gguf, the file.")
        ],
        gguf: Annotated[
            str | None,
            typer.Option(
                help="Write a GGUF file for llama.cpp, with the weights as q8_0, q4_0 or f16."
            ),
        ] = None,
    ) -> None:
        """Turn a checkpoint into a folder that `transformers` loads, or into a GGUF file."""
        if gguf is None:
            print(export_model(checkpoint, target))
        else:
            print(export_gguf_file(checkpoint, target, gguf))
        print(f"written to {target}; chat with it: lm chat --model {target}")
        for line in other_servers(target):
            print(line)
