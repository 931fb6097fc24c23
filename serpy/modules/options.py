"""Answer OPTIONS that are for the server itself: 200 with what we accept.

A Request-URI with a user part is for a phone, not for us: then, and for other methods, nothing is sent and the script
ends, as SER does.

Runs in: udp receiver. Locks: none. RFC: 3261 §11.2.
"""

from __future__ import annotations

from typing import Final

from serpy.api import REPLIES, STOP, TRUE, Context, Exports, Function, Param, ParseError, ReplyService, Server

# Without blanks: the answer to a stranger is to be no longer than needed.
METHODS: Final = "INVITE,ACK,CANCEL,BYE,OPTIONS,REGISTER,MESSAGE,INFO,UPDATE,PRACK,SUBSCRIBE,NOTIFY,REFER"


class Options:
    """The module: the header values of the answer."""

    def __init__(self) -> None:
        self.allow = METHODS
        self.accept = "*/*"
        self.accept_encoding = ""
        self.accept_language = "en"
        self.supported = ""
        self.contact = ""
        self.contact_param = 0
        self._replies: ReplyService | None = None

    def init(self, server: Server) -> None:
        """Find who answers; called in the master. Raises ConfigError."""
        self._replies = server.bind(REPLIES)

    def options_reply(self, ctx: Context) -> int:
        """True when the 200 has been sent."""
        request = ctx.request
        if self._replies is None or request is None or request.method != "OPTIONS":
            return STOP
        try:
            if ctx.uri.user:
                return STOP
        except ParseError:
            return STOP
        return TRUE if self._replies.reply(ctx, 200, "OK", self._headers(ctx)) else STOP

    def _headers(self, ctx: Context) -> list[str]:
        lines = [
            f"Allow: {self.allow}",
            f"Accept: {self.accept}",
            f"Accept-Encoding: {self.accept_encoding}",
            f"Accept-Language: {self.accept_language}",
            f"Supported: {self.supported}",
        ]
        if self.contact:
            lines.append(f"Contact: {self.contact}")
        elif self.contact_param:
            listener = ctx.flow.listener
            transport = "" if listener.transport == "udp" else f";transport={listener.transport}"
            lines.append(f"Contact: <sip:{listener.sent_by}{transport}>")
        return lines


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = Options()
    return Exports(
        "options",
        module,
        functions=(
            Function("options_reply", module.options_reply, summary="answer OPTIONS for the server itself with 200"),
        ),
        params=(
            Param(
                "allow",
                "str",
                METHODS,
                "value of Allow: the methods that are taken here; PUBLISH is not",
                attribute="allow",
            ),
            Param("accept", "str", "*/*", "value of Accept", attribute="accept"),
            Param("accept_encoding", "str", "", "value of Accept-Encoding", attribute="accept_encoding"),
            Param("accept_language", "str", "en", "value of Accept-Language", attribute="accept_language"),
            Param("supported", "str", "", "value of Supported", attribute="supported"),
            Param("contact", "str", "", "value of Contact; empty: see contact_param", attribute="contact"),
            Param(
                "contact_param", "int", 0, "1: Contact is the address the request came to", attribute="contact_param"
            ),
        ),
        init=module.init,
    )
