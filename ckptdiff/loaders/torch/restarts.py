"""What makes a comparison start again, by another method or with more to go by."""

from __future__ import annotations


class TakeLiterally(Exception):  # noqa: N818 - a change of method, not an error
    """Keys or modules are such that torch's own steps have to be followed one by one."""


class CodeFailed(Exception):  # noqa: N818 - not an error yet: real values decide
    """Code of a module failed on meta tensors or asked them for what they do not have, which may be why; the text says
    what. Without a text, its values are of kinds with which no code can be run on the meta device."""


class ModelValuesNeeded(Exception):  # noqa: N818 - the caller builds the model with its values and asks again
    """Code of a module needs the model's own values, and the model was built without them."""

    def __init__(self, place: str, qualified_name: str) -> None:
        super().__init__(f"{place.rstrip('.') or 'the model itself'} ({qualified_name})")
        self._arguments = (place, qualified_name)

    def __reduce__(self) -> tuple[type[ModelValuesNeeded], tuple[str, str]]:
        return type(self), self._arguments
