"""What every format for people lays out: a verdict, facts, sections of folded rows, advice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptdiff.judging.rules import Level


@dataclass(frozen=True, slots=True)
class Row:
    """Keys with the same status, shape and dtype, folded. `name` is escaped, and "" where there is no key."""

    name: str
    count: int
    message: str
    """May have several lines; what is not printable is left in it only where a message of torch's holds it."""

    @property
    def times(self) -> str:
        return f"x{self.count:,}" if self.count > 1 else ""


@dataclass(frozen=True, slots=True)
class Section:
    """All findings of one rule and level, or all keys of a class, which has no level. `more` says what is left out of
    `rows`, "" when nothing is."""

    rule: str
    level: Level
    summary: str
    count: int
    rows: tuple[Row, ...]
    more: str = ""
    brief: tuple[str, ...] = ()
    """Lines that a screen shows in place of the rows: of what is noise to most."""
    hidden: int = 0
    """How many rows are left out."""
    is_class: bool = False
    """Whether `rule` is a class of keys, of which there is no level to tell."""

    @property
    def is_error(self) -> bool:
        """Whether it comes before what would help."""
        return self.level == "error" and not self.is_class

    @property
    def title(self) -> str:
        """The level and the rule, or the class."""
        return self.rule if self.is_class else f"{self.level}: {self.rule}"


@dataclass(frozen=True, slots=True)
class Block:
    """Lines under a title; a line that is indented says more of the one before it."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb that proposes or writes says. `good` as in an Outline."""

    verdict: str
    good: bool | None
    facts: tuple[tuple[str, str], ...] = ()
    blocks: tuple[Block, ...] = ()
    commands: tuple[str, ...] = ()
    code: str = ""


@dataclass(frozen=True, slots=True)
class Outline:
    """A report in words. `good` is False where the answer is no, None where it is yes with doubts or warnings."""

    verdict: str
    good: bool | None
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    advice: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    """Requests that would help, to be pasted, and so never broken into lines."""
    code: str = ""
    """Lines of Python that load it."""
    torch_says: str = ""
    """torch's own message, as it is; "" unless asked for."""
