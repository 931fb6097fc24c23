"""The counters as Prometheus text, and just enough HTTP to serve it.

Counter names are ours with everything but letters, digits and underscores turned into underscores; each has one value per
process slot summed up.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.shm.counters import READY

if TYPE_CHECKING:
    from serpy.shm.counters import Counters

MAX_REQUEST: Final = 8192
_LEGAL: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def answer(request: bytes, counters: Counters) -> bytes:
    """The whole HTTP response to *request*, after which the connection is closed."""
    words = request.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
        return _response("405 Method Not Allowed", "text/plain", "only GET\n")
    if words[1].split(b"?", 1)[0] not in (b"/metrics", b"/"):
        return _response("404 Not Found", "text/plain", "see /metrics\n")
    response = _response("200 OK", "text/plain; version=0.0.4", render(counters))
    return response.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n" if words[0] == b"HEAD" else response


def render(counters: Counters) -> str:
    """All counters and the state of the processes, in the text format of Prometheus."""
    lines: list[str] = []
    family = ""
    for name, value in counters.snapshot().items():
        base, brace, label = name.partition("{")
        metric = metric_name(base)
        if not brace or metric != family:
            help_text = counters.help_text(name).replace("\\", "\\\\").replace("\n", " ")
            lines.extend((f"# HELP {metric} {help_text}", f"# TYPE {metric} untyped"))
        family = metric
        lines.append(f"{metric}{_labelled(label) if brace else ''} {value}")
    status = counters.status
    lines.extend(("# HELP serpy_process_up The process of this slot serves.", "# TYPE serpy_process_up gauge"))
    slots = [slot for slot in range(status.slots) if status.title(slot)]
    for slot in slots:
        label = status.title(slot).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'serpy_process_up{{process="{label}"}} {int(status.state(slot) == READY)}')
    lines.extend(("# HELP serpy_respawns_total Children started again.", "# TYPE serpy_respawns_total counter"))
    lines.append(f"serpy_respawns_total {sum(status.respawns(slot) for slot in slots)}")
    return "\n".join(lines) + "\n"


def _labelled(text: str) -> str:
    """``{label="value"}`` of what a counter's name has behind its brace."""
    label, _, value = text.removesuffix("}").partition("=")
    return f'{{{label}="{value}"}}'


def metric_name(name: str) -> str:
    """*name* as a legal metric name that starts with ``serpy_``."""
    return "serpy_" + "".join(char if char in _LEGAL else "_" for char in name)


def _response(status: str, kind: str, body: str) -> bytes:
    data = body.encode("utf-8", "replace")
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    return head.encode("ascii") + data
