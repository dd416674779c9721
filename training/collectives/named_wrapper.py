"""A wrapper around a module that has the module's names."""

from collections.abc import Iterator
from typing import Any

from torch import nn


class NamedWrapper(nn.Module):
    """The base of wrappers: `named_parameters` and other attributes are those of `module`,
    which the subclass sets.
    """

    module: nn.Module

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the module's parameters under its own names."""
        return self.module.named_parameters(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)
