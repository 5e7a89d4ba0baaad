"""How much to show, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ckptdiff.contents.digests import Digests

Sort = Literal["file", "name", "size", "change"]
Listing = Literal["", "stat", "names"]


@dataclass(frozen=True, slots=True)
class View:
    """Options of the formats meant for people; the formats for programs show everything always.

    `all` lifts the caps on rows; `verbose` adds how the model was built and torch's own message. `width` (columns) and
    `color` matter to `rich` alone. `tensors` (a glob) and `sort` choose the tensors of a listing, which are then shown
    one by one instead of as a tree. `listing` is what a difference is shown as in its place: a line for each module, or
    the names alone.
    """

    all: bool = False
    verbose: bool = False
    width: int = 80
    color: bool = False
    tensors: str | None = None
    sort: Sort | None = None
    listing: Listing = ""
    digests: Digests | None = None
    """What tensors are shown with."""
    python: bool = False
    """Whether a report says the Python that loads as well."""
    height: int = 24
    """Lines of the screen: errors are shortened so that what would help is on the first one, where there is any."""


DEFAULT = View()
