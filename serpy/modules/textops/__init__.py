"""Looking at and editing the text of messages: headers, single header values, bodies.

All edits are deferred: they show in what is sent, never in what later functions read. Functions whose name ends in
``_hf_value`` work on the comma separated values of a header, those ending in ``_hf_value2`` on whole header lines.

Runs in: every process that runs the script. Locks: none. RFC: 3261 §7.3.
"""

from __future__ import annotations

from collections.abc import Callable

from serpy.api import Arg, Exports, Function, Routes
from serpy.modules.textops.functions import TextOps

_EDITS = Routes.REQUEST | Routes.FAILURE | Routes.ONREPLY | Routes.BRANCH
_READS = Routes.ALL
_REQUEST = Routes.REQUEST | Routes.FAILURE | Routes.BRANCH


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = TextOps()
    return Exports("textops", module, functions=(*_reading(module), *_lines(module), *_values(module), *_text(module)))


def _reading(module: TextOps) -> list[Function]:
    rows: list[tuple[str, Callable[..., int], tuple[Arg, ...], str]] = [
        ("search", module.search, (Arg.REGEX,), "true when the whole message matches"),
        ("search_body", module.search_body, (Arg.REGEX,), "true when the body matches"),
        ("is_present_hf", module.is_present_hf, (Arg.STR,), "true when there is such a header"),
        ("hf_value_exists", module.hf_value_exists, (Arg.HEADER, Arg.FORMAT), "true when the list has this value"),
        ("is_method", module.is_method, (Arg.STR,), "true when the method is one of A|B"),
        ("is_request", module.is_request, (), "true in a request"),
        ("is_reply", module.is_reply, (), "true in a reply"),
        ("starts_with", module.starts_with, (Arg.VALUE, Arg.VALUE), "true when the first text begins with the second"),
    ]
    return [Function(name, call, args, routes=_READS, summary=summary) for name, call, args, summary in rows]


def _lines(module: TextOps) -> list[Function]:
    return [
        Function(
            "append_hf",
            module.append_hf,
            (Arg.LINES, Arg.STR),
            optional=1,
            routes=_EDITS,
            summary="add a header line at the end, or after the named header",
        ),
        Function(
            "insert_hf",
            module.insert_hf,
            (Arg.LINES, Arg.STR),
            optional=1,
            routes=_EDITS,
            summary="add a header line on top, or before the named header",
        ),
        Function(
            "append_to_reply",
            module.append_to_reply,
            (Arg.LINES,),
            routes=_REQUEST,
            summary="add a header line to the replies made here",
        ),
        Function("append_time", module.append_time, routes=_REQUEST, summary="add Date to the replies made here"),
        Function(
            "append_urihf",
            module.append_urihf,
            (Arg.LINES, Arg.LINES),
            routes=_REQUEST,
            summary="add a header line around the Request-URI",
        ),
        Function(
            "remove_hf",
            module.remove_hf,
            (Arg.STR,),
            routes=_EDITS,
            summary="remove all headers of this name, or of one of the names A|B",
        ),
        Function(
            "remove_hf_re",
            module.remove_hf_re,
            (Arg.REGEX,),
            routes=_EDITS,
            summary="remove all headers whose name matches",
        ),
    ]


def _values(module: TextOps) -> list[Function]:
    both = (Arg.HEADER, Arg.LINES)
    one = (Arg.HEADER,)
    rows: list[tuple[str, Callable[..., int], tuple[Arg, ...], str]] = [
        ("append_hf_value", module.append_hf_value, both, "add a value after value i, without i a new line"),
        ("append_hf_value2", module.append_hf_value2, both, "append_hf_value() that does not split at commas"),
        ("insert_hf_value", module.insert_hf_value, both, "add a value before value i"),
        ("insert_hf_value2", module.insert_hf_value2, both, "insert_hf_value() that does not split at commas"),
        ("assign_hf_value", module.assign_hf_value, both, "replace value i or its parameter"),
        ("assign_hf_value2", module.assign_hf_value2, both, "assign_hf_value() that does not split at commas"),
        ("remove_hf_value", module.remove_hf_value, one, "remove value i or its parameter"),
        ("remove_hf_value2", module.remove_hf_value2, one, "remove_hf_value() that does not split at commas"),
        ("include_hf_value", module.include_hf_value, both, "add a value to a list unless it is there"),
        ("exclude_hf_value", module.exclude_hf_value, both, "remove a value from a list"),
    ]
    return [Function(name, call, args, routes=_EDITS, summary=summary) for name, call, args, summary in rows]


def _text(module: TextOps) -> list[Function]:
    both = (Arg.MATCH, Arg.LINES)
    one = (Arg.SUBST,)
    rows: list[tuple[str, Callable[..., int], tuple[Arg, ...], Routes, str]] = [
        ("replace", module.replace, both, _EDITS, "replace the first match"),
        ("replace_all", module.replace_all, both, _EDITS, "replace every match"),
        ("replace_body", module.replace_body, both, _EDITS, "replace the first match in the body"),
        ("subst", module.subst, one, _EDITS, "/expression/replacement/flags over headers and body"),
        ("subst_body", module.subst_body, one, _EDITS, "/expression/replacement/flags over the body"),
        ("subst_uri", module.subst_uri, one, _REQUEST, "/expression/replacement/flags over the Request-URI"),
        ("subst_user", module.subst_user, one, _REQUEST, "/expression/replacement/flags over its user"),
    ]
    return [Function(name, call, args, routes=routes, summary=text) for name, call, args, routes, text in rows]
