"""What has no Markdown or HTML of its own: its text, as a part of a comment and as a page."""

from __future__ import annotations

from html import escape

from ckptdiff.render.markdown import Block, fit

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · ckptdiff</title>
</head>
<body>
<h1>{title}</h1>
<pre>{rest}</pre>
</body>
</html>
"""


def markdown(text: str) -> str:
    """For a comment, cut where it is too long for one, ending with a newline."""
    title, rest = _split(text)
    head = f"## ckptdiff\n\n<strong>{escape(title)}</strong>\n<pre>\n"
    return fit([Block(head, tuple(f"{escape(line)}\n" for line in rest.splitlines()), "</pre>\n")])


def html(text: str) -> str:
    """A page, ending with a newline."""
    title, rest = _split(text)
    return _PAGE.format(title=escape(title), rest=escape(rest))


def _split(text: str) -> tuple[str, str]:
    title, _, rest = text.partition("\n")
    return title, rest.strip("\n")
