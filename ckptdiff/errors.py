"""The errors ckptdiff raises on purpose: one sentence, one hint, exit code 2.

Everything a user can cause ends here. Anything else that escapes is a defect in ckptdiff and says so.
"""

from __future__ import annotations


class CkptdiffError(Exception):
    """No answer could be given.

    `message` is one sentence that names the file or option at fault; `hint` is one sentence that says what to do
    (empty where there is nothing useful to say). `detail` is optional further text, such as the user's own shortened
    traceback, shown between the two.
    """

    kind = "error"

    def __init__(self, message: str, hint: str = "", *, detail: str = "") -> None:
        message = _on_one_line(message)
        super().__init__(message)
        self.message = message
        self.hint = _on_one_line(hint)
        self.detail = detail

    def __str__(self) -> str:
        """What is wrong, and what to do: a traceback shows nothing else."""
        return f"{self.message} {self.hint}".rstrip()


def words_of(error: BaseException) -> str:
    """An exception of somebody's code as `Type: text`; its text may be one that cannot be had."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # __str__ may do anything
        return f"{type(error).__name__}: <exception str() failed>"  # as Python's own traceback has it


def _on_one_line(text: str) -> str:
    """What cannot be printed, a line break in a file's name say, as Python writes it in a string."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class CheckpointError(CkptdiffError):
    """The file is not a checkpoint that can be read: absent, damaged, hostile, or of another kind."""

    kind = "checkpoint"


class ModelError(CkptdiffError):
    """The model reference names nothing usable, or its own code failed."""

    kind = "model"


class UsageError(CkptdiffError):
    """The options contradict each other or name something that is not there."""

    kind = "usage"


class OutputError(CkptdiffError):
    """The result could not be written; the destination is what it was before."""

    kind = "output"
