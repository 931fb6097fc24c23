"""Text substitution, applied to header lines and body one by one: an expression cannot match across header lines.

Runs in: every process that runs the script. Locks: none.
"""

from __future__ import annotations

from serpy.context.context import Context
from serpy.script.substitution import Substitution


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
