"""The script functions of textops: each is a thin face over ``values``, ``substitute`` and ``Edits``.

A header line that a script adds must have a name and a colon, and a value must stay on its line, so that received
text can never start a line of its own.

Runs in: every process that runs the script. Locks: none. RFC: 3261 §7.3.
"""

from __future__ import annotations

import logging

from serpy.api import FALSE, TRUE, Context, ParseError, UsageError
from serpy.context.context import ONSEND
from serpy.modules.textops import substitute, values
from serpy.modules.textops.reference import header_ref
from serpy.script.patterns import Pattern
from serpy.script.substitution import Substitution
from serpy.sip.abnf import is_token
from serpy.sip.date import date_line
from serpy.sip.lines import BITS, CANONICAL
from serpy.sip.parser import canonical_name

log = logging.getLogger(__name__)


class TextOps:
    """The module. Stateless but for caches of what the script's constants mean."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._methods: dict[str, list[str]] = {}
        self._wanted: dict[str, tuple[list[str], int]] = {}  # keys of A|B, and their bits if all of them have one

    def _key(self, name: str) -> str:
        """The canonical form of a header name written in the script, compact forms included."""
        key = self._names.get(name)
        if key is None:
            try:
                key = self._names[name] = canonical_name(name.strip(" \t:"))
            except ParseError as exc:
                raise UsageError(f"not a header name: {name!r}") from exc
        return key

    # reading

    def search(self, ctx: Context, expression: Pattern) -> int:
        """True when the whole message, in onsend_route what is sent, matches."""
        raw = ctx.out_data if ctx.kind == ONSEND else ctx.message.raw
        return TRUE if expression.search(raw.decode("utf-8", "surrogateescape")) else FALSE

    def search_body(self, ctx: Context, expression: Pattern) -> int:
        """True when the body matches."""
        return TRUE if expression.search(ctx.message.body.decode("utf-8", "surrogateescape")) else FALSE

    def is_present_hf(self, ctx: Context, name: str) -> int:
        """True when the message has a header of that name."""
        return TRUE if ctx.message.has(self._key(name)) else FALSE

    def hf_value_exists(self, ctx: Context, reference: str, text: str) -> int:
        """True when the list header has this value, compared whole and without case."""
        try:
            return TRUE if values.has_value(ctx, header_ref(reference).key, text) else FALSE
        except ParseError:
            return FALSE

    def is_method(self, ctx: Context, names: str) -> int:
        """True when the method (of a reply: the CSeq method) is one of ``A|B``."""
        wanted = self._methods.get(names)
        if wanted is None:
            wanted = self._methods[names] = [name.strip(" \t") for name in names.split("|")]
        if ctx.request is not None and ctx.response is None:
            return TRUE if ctx.request.method in wanted else FALSE
        try:
            return TRUE if ctx.message.cseq.method in wanted else FALSE
        except ParseError:
            return FALSE

    def is_request(self, ctx: Context) -> int:
        """True when the message is a request."""
        return FALSE if ctx.response is not None else TRUE

    def is_reply(self, ctx: Context) -> int:
        """True when the message is a reply."""
        return FALSE if ctx.response is None else TRUE

    def starts_with(self, ctx: Context, text: str | int | None, start: str | int | None) -> int:
        """True when *text* begins with *start*."""
        del ctx
        if text is None or start is None:
            return FALSE
        return TRUE if str(text).startswith(str(start)) else FALSE

    # header lines

    def append_hf(self, ctx: Context, text: str, after: str = "") -> int:
        """Add header lines after the last header, or after the last one named *after*."""
        lines = header_lines(text)
        if not lines:
            return FALSE
        anchors = ctx.message.indexes(self._key(after)) if after else []
        for line in lines:
            if anchors:
                ctx.edits.insert_after(anchors[-1], line)
            else:
                ctx.edits.append(line)
        return TRUE

    def insert_hf(self, ctx: Context, text: str, before: str = "") -> int:
        """Add header lines above all headers, or before the first one named *before*."""
        lines = header_lines(text)
        if not lines:
            return FALSE
        anchors = ctx.message.indexes(self._key(before)) if before else []
        if anchors:
            for line in lines:
                ctx.edits.insert_before(anchors[0], line)
        else:
            for line in reversed(lines):
                ctx.edits.prepend(line)
        return TRUE

    def append_to_reply(self, ctx: Context, text: str) -> int:
        """Add header lines to every reply made here to this request."""
        lines = header_lines(text)
        if not lines:
            return FALSE
        ctx.reply_headers.extend(lines)
        return TRUE

    def append_time(self, ctx: Context) -> int:
        """Add a Date header to replies made here."""
        ctx.reply_headers.append(date_line(ctx.wall_now))
        return TRUE

    def append_urihf(self, ctx: Context, prefix: str, suffix: str) -> int:
        """Add a header line made of *prefix*, the current Request-URI and *suffix*."""
        return self.append_hf(ctx, f"{prefix}{ctx.request_uri}{suffix}")

    def remove_hf(self, ctx: Context, names: str) -> int:
        """Remove all headers of that name, or of one of the names ``A|B``. False when there is none."""
        wanted = self._wanted.get(names)
        if wanted is None:
            keys = [self._key(name) for name in names.split("|")]
            bits = {BITS.get(key, 0) for key in keys}
            wanted = self._wanted[names] = keys, 0 if 0 in bits else sum(bits)
        keys, mask = wanted
        message = ctx.message
        if mask and not message.may_have(mask):
            return FALSE  # the parser has seen none of them
        done = False
        for key in keys:
            for index in message.indexes(key):
                ctx.edits.remove(index)
                done = True
        return TRUE if done else FALSE

    def remove_hf_re(self, ctx: Context, expression: Pattern) -> int:
        """Remove all headers whose name matches. False when there is none."""
        done = False
        for index, line in enumerate(ctx.message.lines):
            if expression.search(line[: line.find(":")]) is not None:
                ctx.edits.remove(index)
                done = True
        return TRUE if done else FALSE

    # header values

    def append_hf_value(self, ctx: Context, reference: str, text: str) -> int:
        """Without an index add a header line at the end; with one add the value after that value."""
        return self._change(values.append_value, ctx, reference, text, whole=False)

    def append_hf_value2(self, ctx: Context, reference: str, text: str) -> int:
        """append_hf_value() for headers whose commas do not separate values."""
        return self._change(values.append_value, ctx, reference, text, whole=True)

    def insert_hf_value(self, ctx: Context, reference: str, text: str) -> int:
        """Add the value before the one referred to (default the first)."""
        return self._change(values.insert_value, ctx, reference, text, whole=False)

    def insert_hf_value2(self, ctx: Context, reference: str, text: str) -> int:
        """insert_hf_value() for headers whose commas do not separate values."""
        return self._change(values.insert_value, ctx, reference, text, whole=True)

    def assign_hf_value(self, ctx: Context, reference: str, text: str) -> int:
        """Replace the value referred to (default the first) or its parameter. False when there is none."""
        return self._change(values.assign_value, ctx, reference, text, whole=False)

    def assign_hf_value2(self, ctx: Context, reference: str, text: str) -> int:
        """assign_hf_value() for headers whose commas do not separate values."""
        return self._change(values.assign_value, ctx, reference, text, whole=True)

    def remove_hf_value(self, ctx: Context, reference: str) -> int:
        """Remove the value referred to (default the first) or its parameter. False when there is none."""
        return TRUE if values.remove_value(ctx, header_ref(reference), whole=False) else FALSE

    def remove_hf_value2(self, ctx: Context, reference: str) -> int:
        """remove_hf_value() for headers whose commas do not separate values; by default all lines."""
        return TRUE if values.remove_value(ctx, header_ref(reference), whole=True) else FALSE

    def include_hf_value(self, ctx: Context, reference: str, text: str) -> int:
        """Add the value to the list header unless it has it."""
        if not _is_value(text):
            return FALSE
        values.include_value(ctx, header_ref(reference), text)
        return TRUE

    def exclude_hf_value(self, ctx: Context, reference: str, text: str) -> int:
        """Remove the value from the list header."""
        values.exclude_value(ctx, header_ref(reference), text)
        return TRUE

    def _change(self, change: values.Change, ctx: Context, reference: str, text: str, *, whole: bool) -> int:
        if not _is_value(text):
            return FALSE
        return TRUE if change(ctx, header_ref(reference), text, whole) else FALSE

    # substitution

    def replace(self, ctx: Context, expression: Pattern, text: str) -> int:
        """Replace the first match in headers or body by *text*, as it stands."""
        return self._replace(ctx, expression, text, 1)

    def replace_all(self, ctx: Context, expression: Pattern, text: str) -> int:
        """Replace every match in headers and body by *text*, as it stands."""
        return self._replace(ctx, expression, text, 0)

    def replace_body(self, ctx: Context, expression: Pattern, text: str) -> int:
        """Replace the first match in the body by *text*, as it stands."""
        change = Substitution(expression, [text], 1)
        return TRUE if substitute.substitute_body(ctx, change) else FALSE

    def _replace(self, ctx: Context, expression: Pattern, text: str, count: int) -> int:
        change = Substitution(expression, [text], count)
        return TRUE if substitute.substitute_message(ctx, change) else FALSE

    def subst(self, ctx: Context, change: Substitution) -> int:
        """``/expression/replacement/flags`` over headers and body."""
        return TRUE if substitute.substitute_message(ctx, change) else FALSE

    def subst_body(self, ctx: Context, change: Substitution) -> int:
        """``/expression/replacement/flags`` over the body."""
        return TRUE if substitute.substitute_body(ctx, change) else FALSE

    def subst_uri(self, ctx: Context, change: Substitution) -> int:
        """``/expression/replacement/flags`` over the Request-URI."""
        changed = change.apply(ctx.request_uri)
        if changed is None or not _is_value(changed) or " " in changed:
            return FALSE
        ctx.request_uri = changed
        return TRUE

    def subst_user(self, ctx: Context, change: Substitution) -> int:
        """``/expression/replacement/flags`` over the user of the Request-URI."""
        try:
            uri = ctx.uri
        except ParseError:
            return FALSE
        changed = change.apply(uri.user)
        if changed is None or not _is_value(changed) or "@" in changed or " " in changed:
            return FALSE
        ctx.request_uri = str(uri.replaced(user=changed))
        return TRUE


def _is_value(text: str) -> bool:
    """True when *text* stays on its header line."""
    return "\n" not in text and "\r" not in text


def header_lines(text: str) -> list[str]:
    """*text* as header lines without their ends; empty when one of them is no header line."""
    lines: list[str] = []
    for piece in text.split("\n"):
        line = piece.rstrip("\r")
        if not line:
            continue
        if line[0] in " \t":
            if not lines:
                return []
            lines[-1] += "\r\n" + line
            continue
        colon = line.find(":")
        name = line[: max(colon, 0)]
        if colon < 0 or "\r" in line or (name not in CANONICAL and not is_token(name.rstrip(" \t"))):
            log.debug("not a header line: %.120r", line)
            return []
        lines.append(line)
    return lines
