r"""Text substitution: ``/expression/replacement/flags``, applied to header lines and body one by one.

``\0`` … ``\9`` in the replacement are the match and its groups. Flags: ``g`` all matches, ``i`` without case. An
expression cannot match across header lines.

Runs in: every process that runs the script. Locks: none.
"""

from __future__ import annotations

import re
from typing import Final

from serpy.context.context import Context
from serpy.errors import UsageError


class Substitution:
    """A compiled ``/expression/replacement/flags``."""

    def __init__(self, expression: re.Pattern[str], replacement: str, count: int) -> None:
        self.expression: Final = expression
        self.replacement: Final = replacement  # as re.sub takes it
        self.count: Final = count  # 0 = all

    def apply(self, text: str) -> str | None:
        """*text* with the substitution made, None when nothing matches."""
        changed, number = self.expression.subn(self.replacement, text, self.count)
        return changed if number else None


_cache: Final[dict[str, Substitution]] = {}


def substitution(text: str) -> Substitution:
    """The substitution written as *text*, cached. Raises UsageError."""
    found = _cache.get(text)
    if found is None:
        found = _cache[text] = _parse(text)
    return found


def _parse(text: str) -> Substitution:
    parts = _split(text, text[:1])
    if len(parts) != 4 or parts[0]:
        raise UsageError(f"not of the form /expression/replacement/flags: {text!r}")
    flags = re.IGNORECASE | re.MULTILINE if "i" in parts[3] else re.MULTILINE
    try:
        expression = re.compile(parts[1], flags)
        replacement = _template(parts[2])
        expression.sub(replacement, "")
    except (re.error, IndexError) as exc:
        raise UsageError(f"bad substitution {text!r}: {exc}") from exc
    return Substitution(expression, replacement, 0 if "g" in parts[3] else 1)


def _split(text: str, separator: str) -> list[str]:
    """*text* at every *separator* that has no backslash before it."""
    if not separator:
        return []
    parts: list[str] = []
    current = ""
    place = 0
    while place < len(text):
        char = text[place]
        if char == "\\" and place + 1 < len(text):
            following = text[place + 1]
            current += following if following == separator else char + following
            place += 2
            continue
        if char == separator:
            parts.append(current)
            current = ""
        else:
            current += char
        place += 1
    parts.append(current)
    return parts


def _template(text: str) -> str:
    """*text* in the notation of re.sub: only a digit after the backslash is special."""
    out = ""
    place = 0
    while place < len(text):
        char = text[place]
        if char != "\\" or place + 1 == len(text):
            out += "\\\\" if char == "\\" else char
            place += 1
            continue
        following = text[place + 1]
        if "0" <= following <= "9":
            out += f"\\g<{following}>"
        else:
            out += {"n": "\n", "r": "\r", "t": "\t", "\\": "\\\\"}.get(following, following)
        place += 2
    return out


def substitute_message(ctx: Context, change: Substitution) -> bool:
    """Apply *change* to the header lines, then to the body; only the first match of all without the flag ``g``."""
    message = ctx.message
    done = False
    for index, line in enumerate(message.lines):
        if message.names[index] == "via":
            continue  # what routes the answer back is not the script's business
        changed = change.apply(line)
        if changed is not None and "\n" not in changed.replace("\r\n ", "").replace("\r\n\t", ""):
            ctx.edits.replace(index, changed)
            done = True
            if change.count:
                return True
    return substitute_body(ctx, change) or done


def substitute_body(ctx: Context, change: Substitution) -> bool:
    """Apply *change* to the body."""
    body = ctx.message.body if ctx.edits.body is None else ctx.edits.body
    if not body:
        return False
    changed = change.apply(body.decode("utf-8", "surrogateescape"))
    if changed is None:
        return False
    ctx.edits.body = changed.encode("utf-8", "surrogateescape")
    return True
