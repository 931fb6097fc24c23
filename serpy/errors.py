"""The exception tree: who is to blame, and what to answer.

``ProtocolError`` means the peer broke a rule and carries the SIP status we would answer with. ``UsageError`` means
that our own script or module asked for something illegal. The other branches name the part that failed.

Runs in: every process. Locks: none. RFC: 3261 §21 for the statuses.
"""

from __future__ import annotations

from typing import Final


class SerpyError(Exception):
    """Base of every error serpy raises on purpose."""


class ConfigError(SerpyError):
    """The configuration cannot be used: refuse to start (exit 2) or to reload.

    *file*, *line* and *column* (both from 1, 0 = unknown) locate it; *hint* says what to do.
    """

    def __init__(self, message: str, *, file: str = "", line: int = 0, column: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.message: Final = message
        self.file: Final = file
        self.line: Final = line
        self.column: Final = column
        self.hint: Final = hint

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class ScriptError(ConfigError):
    """Lexer, parser or checker of the routing script refused the text."""


class ScriptErrors(ConfigError):  # noqa: N818 - many errors in one
    """Everything that is wrong with a script. ``str()`` shows each error with its line, a caret and the hint."""

    def __init__(self, errors: list[ScriptError], rendered: list[str]) -> None:
        first = errors[0]
        super().__init__(first.message, file=first.file, line=first.line, column=first.column, hint=first.hint)
        self.errors: Final = errors
        self.rendered: Final = rendered

    def __str__(self) -> str:
        count = len(self.errors)
        return "\n".join([*self.rendered, f"{count} error{'s' if count > 1 else ''} in the configuration"])


class ProtocolError(SerpyError):
    """The peer broke a rule; *status* is the answer we would give, *reason* its phrase ("" = the default one)."""

    def __init__(self, message: str, *, status: int = 400, reason: str = "") -> None:
        super().__init__(message)
        self.status: Final = status
        self.reason: Final = reason


class ParseError(ProtocolError):
    """A message or value does not follow the grammar: 400."""

    def __init__(self, message: str, *, header: str = "", offset: int = 0, value: str = "", status: int = 400) -> None:
        detail = f"{message}: {value[:120]!r}" if value else message
        super().__init__(detail, status=status, reason=f"Bad {header}" if header else "")
        self.header: Final = header
        self.offset: Final = offset


class LimitExceededError(ProtocolError):
    """A count or length is over its limit: 483, 513 or as given."""


class FramingError(ProtocolError):
    """The byte stream has lost its message boundaries: close the connection."""


class UnsupportedError(ProtocolError):
    """We understand what is asked and do not do it: 405, 415, 416, 420, 505."""


class UsageError(SerpyError):
    """The script or a module asked for something the RFC forbids: a bug on our side."""


class TransportError(SerpyError):
    """The destination failed: try the next one, else act as if it had answered 503 (RFC 3261 §16.9)."""


class HeldBackError(TransportError):
    """Nothing may be sent to that address from here, see ``net/guard.py``: 403 for whoever asked for it."""


class ResourceError(SerpyError):
    """Shared memory or a table is full: 503 with Retry-After."""


class BackendError(SerpyError):
    """The database, DNS or another helper failed: the script function is false and the script decides."""


class DatabaseDownError(BackendError):
    """The server cannot be reached or did not answer in time: the same request may succeed later.

    *unknown*: the request had left, so what it was to write may be on disk all the same.
    """

    # It stands here because compiled code knows only the subclasses that are compiled with it.

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown: Final = unknown


class OutcomeUnknownError(BackendError):
    """A write was refused or not answered in time, and may be on disk all the same."""
