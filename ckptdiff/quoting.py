"""Words of a command line, as the shell in use reads them.

Most need no quotes, or double quotes, which mean the same to a POSIX shell, PowerShell and cmd.exe as long as nothing
in them means something to one of the three. Only what does is written in the shell's own way:

* sh, bash, zsh: in single quotes, a single quote as `'"'"'`.
* PowerShell: in single quotes, a single quote twice; so are the typographic ones, which it takes for quotes.
* cmd.exe: in double quotes, a percent sign outside them behind a caret. With a double quote in it, which programs read
  behind a backslash and cmd.exe as the end of the quotes, all that means something to cmd.exe stands behind a caret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Shell = Literal["sh", "powershell", "cmd"]

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/:=+")
_SPECIAL = frozenset('$`"\\!%“”„‘’‚‛')
_SINGLE = "'‘’‚‛"


def quoted(text: str, shell: Shell = "sh") -> str:
    """One word of a command line. What cannot be printed has to be escaped before."""
    bare = _BARE if shell == "sh" else _BARE | {"\\"}
    if text and not set(text) - bare and text[0] not in "=":
        return text
    special = _SPECIAL if shell == "sh" else _SPECIAL - {"\\"}
    if not set(text) & special:
        # Programs on Windows read a backslash before the last quote as one that belongs to it.
        return f'"{text}{_last_backslashes(text)}"' if shell == "cmd" else f'"{text}"'
    if shell == "sh":
        return "'" + text.replace("'", "'\"'\"'") + "'"
    if shell == "powershell":
        return "'" + "".join(char * 2 if char in _SINGLE else char for char in text) + "'"
    if '"' not in text:
        return '"' + '"^%"'.join(part + _last_backslashes(part) for part in text.split("%")) + '"'
    # A double quote would end the quotes for cmd.exe, whatever stands before it: it is given none, and a caret before
    # all that means something to it.
    word = re.sub(r'(\\*)"', r'\1\1\\"', text)
    word += _last_backslashes(word)
    return "".join(f"^{char}" if char in '()%!^"<>&|' else char for char in f'"{word}"')


def _last_backslashes(text: str) -> str:
    return "\\" * (len(text) - len(text.rstrip("\\")))


def shell_in_use(environ: Mapping[str, str], system: str, parent: str = "") -> Shell:
    """The shell that a command is to be pasted into, as far as the surroundings tell. `system` is `os.name`, `parent`
    the name of the program that started this one, "" where it is not known."""
    if system == "nt":
        return "cmd" if "PROMPT" in environ else "powershell"
    return "powershell" if parent.startswith("pwsh") else "sh"
