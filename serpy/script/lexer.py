"""Text of one script file -> tokens with their places. Knows nothing of directives, includes or defines.

Dotted things are one token (addresses, networks, ``group.name``, selects, ``$class.name[1]``), so the grammar stays
small. Preprocessor lines come out as ``DIRECTIVE`` tokens; ``preprocess.py`` acts on them.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from lark import Token

from serpy.script.faults import Faults, Position

KEYWORDS: Final = {
    "if": "IF", "else": "ELSE", "while": "WHILE", "switch": "SWITCH", "case": "CASE", "default": "DEFAULT",
    "break": "BREAK", "return": "RETURN", "drop": "DROP", "exit": "EXIT", "defined": "DEFINED",
    "strempty": "STREMPTY", "strlen": "STRLEN", "and": "AND", "or": "OR", "not": "NOT", "mod": "MULOP",
    "eq": "EQOP", "ne": "EQOP", "ieq": "EQOP", "ine": "EQOP",
}  # fmt: skip
TOP_WORDS: Final = {
    "loadmodule": "LOADMODULE", "loadpath": "LOADPATH", "mpath": "LOADPATH", "modparam": "MODPARAM", "flags": "FLAGS",
    "bool": "FLAGS", "avpflags": "AVPFLAGS",
}  # fmt: skip
BOOLEANS: Final = {"yes": 1, "true": 1, "on": 1, "enable": 1, "no": 0, "false": 0, "off": 0, "disable": 0}
PROTOCOLS: Final = frozenset(("udp", "tcp", "tls", "sctp", "ws", "wss", "UDP", "TCP", "TLS", "SCTP", "WS", "WSS"))
FAMILIES: Final = {"inet": 2, "INET": 2, "inet6": 10, "INET6": 10}
CORE_OPERANDS: Final = frozenset(
    [
        "method",
        "uri",
        "status",
        "from_uri",
        "to_uri",
        "src_ip",
        "dst_ip",
        "to_ip",
        "snd_ip",
        "src_port",
        "dst_port",
        "to_port",
        "snd_port",
        "proto",
        "snd_proto",
        "af",
        "snd_af",
        "myself",
        "max_len",
    ]
)
ROUTE_KINDS: Final = frozenset(
    [
        "route",
        "request_route",
        "onreply_route",
        "reply_route",
        "failure_route",
        "branch_route",
        "onsend_route",
        "event_route",
    ]
)
_OPERATORS: Final = {
    "==": "EQOP", "!=": "EQOP", "=~": "EQOP", ">=": "RELOP", "<=": "RELOP", "<": "RELOP", ">": "RELOP",
    "&&": "AND", "||": "OR", "!": "NOT", "<<": "SHL", ">>": "SHR", "=": "ASSIGN", "+": "PLUS", "-": "MINUS",
    "*": "MULOP", "/": "SLASH", "%": "MULOP", "~": "TILDE", "|": "BOR", "&": "BAND", "^": "BXOR", "(": "LPAR",
    ")": "RPAR", "{": "LBRACE", "}": "RBRACE", "[": "LSQB", "]": "RSQB", ";": "SEMI", ",": "COMMA", ":": "COLON",
    ".": "DOT",
}  # fmt: skip

_SKIP: Final = re.compile(r"(?:[ \t\r\n\b]|\\\r?\n|//[^\n]*)+")
_IP4: Final = r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}"
_IP6: Final = r"(?:::|(?:[0-9A-Fa-f]{1,4}:){2}|[0-9A-Fa-f]{1,4}::)[0-9A-Fa-f:]*(?:(?<=:)" + _IP4 + r")?"
_NUMBER_END: Final = r"(?![A-Za-z0-9_])"
_TOKEN: Final = re.compile(
    rf"""
      (?P<MSGLEN>msg:len\b) | (?P<URIPART>uri:(?:host|port)\b)
    | (?P<CAST>\(\s*(?:int|str)\s*\))
    | (?P<IP6>\[{_IP6}\]|{_IP6}(?![A-Za-z_]))(?P<MASK6>/\d{{1,3}})?
    | (?P<IP4>{_IP4})(?![\w])(?P<MASK4>/(?:{_IP4}|\d{{1,2}}))?
    | (?P<HEX>0[xX][0-9a-fA-F]+){_NUMBER_END} | (?P<BIN>[01]+b){_NUMBER_END} | (?P<DEC>\d+){_NUMBER_END}
    | (?P<BADNUM>\d[\w.]*)
    | (?P<DOTTED>[A-Za-z_][\w-]*(?:\.[A-Za-z0-9_][\w-]*)+)
    | (?P<WORD>[A-Za-z_]\w*)
    | (?P<RC>\$\?) | (?P<PVPAREN>\$\() | (?P<VAR>\$[A-Za-z_]\w*(?:\.[A-Za-z_0-9]\w*)?)
    | (?P<SELECT>@[A-Za-z_]\w*(?:\.[A-Za-z_0-9]\w*|\[\s*(?:-?\d+|"[^"\n]*"|\*)\s*\])*)
    | (?P<OP>==|!=|=~|>=|<=|&&|\|\||<<|>>|[-!<>=+*/%~|&^(){{}}\[\];,:.])
    """,
    re.VERBOSE | re.ASCII,
)
_INDEX: Final = re.compile(r"\[\s*(?:-?\d*|\*|\$[A-Za-z_]\w*(?:\([^()\n]*\))?)\s*\]", re.ASCII)
_ROUTE_NAME: Final = re.compile(r"\s*\[\s*(\"[^\"\n]*\"|'[^'\n]*'|[^\]\n{}();]*?)\s*\]", re.ASCII)
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{2,3})|(\r?\n)|(.))", re.DOTALL | re.ASCII)
_SIMPLE_ESCAPES: Final = {"n": "\n", "r": "\r", "a": "\a", "t": "\t", '"': '"', "\\": "\\"}


class Tok(Token):
    """A token. ``value`` is the written text; ``data`` what it means (decoded string, integer, route name)."""

    position: Position
    data: int | str

    @staticmethod
    def make(kind: str, text: str, position: Position, data: int | str = "") -> Tok:
        """A token at *position*."""
        token = Tok(kind, text, line=position.line, column=position.column)
        token.position = position
        token.data = data
        return token

    def at(self, position: Position) -> Tok:
        """The same token at the place where a define was used."""
        return Tok.make(self.type, str(self), position, self.data)


def unescape(text: str) -> str:
    """The value of a double-quoted string's inside; unknown escapes keep their backslash."""

    def replace(match: re.Match[str]) -> str:
        hexadecimal, octal, newline, other = match.groups()
        if hexadecimal:
            return chr(int(hexadecimal, 16))
        if octal:
            return chr(int(octal, 8) & 0xFF)
        if newline:
            return ""
        return _SIMPLE_ESCAPES.get(other, "\\" + other)

    return _ESCAPE.sub(replace, text) if "\\" in text else text


class Lexer:
    """Cuts one text into tokens. *at* pins every token to one place (the use of a define)."""

    def __init__(self, text: str, file: str, faults: Faults, at: Position | None = None) -> None:
        self.text = text
        self.file = file
        self.faults = faults
        self.at = at
        self.offset = 0
        self.line = 1
        self.line_start = 0

    def position(self, offset: int, width: int = 1) -> Position:
        """The place of *offset*, which must not lie before the current line."""
        return self.at or Position(self.file, self.line, offset - self.line_start + 1, width)

    def _advance(self, end: int) -> None:
        count = self.text.count("\n", self.offset, end)
        if count:
            self.line += count
            self.line_start = self.text.rindex("\n", self.offset, end) + 1
        self.offset = end

    def next(self) -> Tok | None:
        """The next token, None at the end of the text."""
        text = self.text
        while True:
            skipped = _SKIP.match(text, self.offset)
            if skipped:
                self._advance(skipped.end())
            if self.offset >= len(text):
                return None
            if text.startswith("/*", self.offset):
                self._block_comment()
                continue
            if text[self.offset] == "#":
                token = self._hash()
                if token is not None:
                    return token
                continue
            return self._token()

    def _hash(self) -> Tok | None:
        """A comment (None) or a directive, up to the end of its line; a backslash continues a directive."""
        start = self.offset
        end = self._line_end(start)
        if not self.text.startswith("#!", start):
            self._advance(end)
            return None
        while end < len(self.text) and self.text[start:end].rstrip(" \t\r").endswith("\\"):
            end = self._line_end(end + 1)
        raw = self.text[start + 2 : end]
        position = self.position(start, min(end - start, 2 + len(raw.split("\n", 1)[0])))
        self._advance(end)
        return Tok.make("DIRECTIVE", re.sub(r"\\[ \t\r]*\n", " ", raw).strip(" \t\r"), position)

    def _line_end(self, offset: int) -> int:
        end = self.text.find("\n", offset)
        return len(self.text) if end < 0 else end

    def skip_line(self) -> str | None:
        """Without tokenising: one whole line of skipped text, None at the end."""
        if self.offset >= len(self.text):
            return None
        end = self._line_end(self.offset)
        line = self.text[self.offset : end]
        self._advance(min(end + 1, len(self.text)))
        return line

    def _block_comment(self) -> None:
        start = self.position(self.offset, 2)
        depth = 0
        for match in re.finditer(r"/\*|\*/", self.text[self.offset :]):
            depth += 1 if match.group() == "/*" else -1
            if not depth:
                self._advance(self.offset + match.end())
                return
        self.faults.add(start, "this comment is never closed", "comments nest: every '/*' needs its own '*/'")
        self._advance(len(self.text))

    def _token(self) -> Tok | None:
        start = self.offset
        character = self.text[start]
        if character in "\"'":
            return self._string(character)
        match = _TOKEN.match(self.text, start)
        if match is None:
            position = self.position(start)
            hint = "use straight quotes" if character in "“”„‘’" else ""  # noqa: RUF001
            self.faults.add(position, f"unexpected character {character!r}", hint)
            self._advance(start + 1)
            return self.next()
        kind = str(match.lastgroup)
        position = self.position(start, match.end() - start)
        self._advance(match.end())
        if kind in ("MASK4", "MASK6"):
            kind = "IP" + kind[-1]
        return self._make(kind, match.group(), position)

    def _make(self, kind: str, text: str, position: Position) -> Tok | None:
        make = _MAKERS.get(kind)
        if make is not None:
            made: Tok | None = make(self, text, position)
            return made
        return Tok.make(kind, text, position, text)

    def _number(self, text: str, position: Position) -> Tok:
        if text[-1] == "b" and text[:2].lower() != "0x":
            value = int(text[:-1], 2)
        elif text[0] == "0" and text[1:].isdigit():
            if set(text) & {"8", "9"}:
                self.faults.add(position, f"{text} is not an octal number", "a number with a leading 0 is octal")
                return Tok.make("INT", text, position, 0)
            value = int(text, 8)
        else:
            value = int(text, 0)
        return Tok.make("INT", text, position, value)

    def _bad_number(self, text: str, position: Position) -> Tok:
        self.faults.add(position, f"{text!r} is neither a number nor a name", "put text in quotes")
        return Tok.make("INT", text, position, 0)

    def _word(self, text: str, position: Position) -> Tok:
        if text in BOOLEANS:
            return Tok.make("INT", text, position, BOOLEANS[text])
        if text in KEYWORDS:
            return Tok.make(KEYWORDS[text], text, position, text)
        if text in PROTOCOLS:
            return Tok.make("PROTO", text, position, text.lower())
        if text in FAMILIES:
            return Tok.make("INT", text, position, FAMILIES[text])
        if text in CORE_OPERANDS:
            return Tok.make("CORE", text, position, text)
        if text in ROUTE_KINDS:
            return self._route_word(text, position)
        return Tok.make(TOP_WORDS.get(text, "NAME"), text, position, text)

    def _route_word(self, text: str, position: Position) -> Tok:
        """``route(`` is a call; anything else starts a block, whose name goes into ``data``."""
        named = _ROUTE_NAME.match(self.text, self.offset)
        if named:
            self._advance(named.end())
            return Tok.make("ROUTEKIND", text, position, named.group(1).strip("\"'"))
        rest = _SKIP.match(self.text, self.offset)
        after = rest.end() if rest else self.offset
        if text == "route" and self.text.startswith("(", after):
            return Tok.make("NAME", text, position, text)
        return Tok.make("ROUTEKIND", text, position, "")

    def _operator(self, text: str, position: Position) -> Tok:
        return Tok.make(_OPERATORS[text], text, position, text)

    def _cast(self, text: str, position: Position) -> Tok:
        return Tok.make("CAST", text, position, text.strip("() \t\r\n"))

    def _message_length(self, text: str, position: Position) -> Tok:
        return Tok.make("CORE", text, position, text)

    def _return_code(self, text: str, position: Position) -> Tok:
        return Tok.make("VAR", text, position, "$rc")

    def _variable(self, text: str, position: Position) -> Tok:
        """``$name`` with whatever follows without a blank: ``(argument)``, ``[index]``."""
        start = self.offset
        if self.text.startswith("(", start):
            end = self._balanced(start, position)
            text += self.text[start:end]
            self._advance(end)
        index = _INDEX.match(self.text, self.offset)
        if index:
            text += "".join(index.group().split())
            self._advance(index.end())
        return Tok.make("VAR", text, Position(position.file, position.line, position.column, len(text)), text)

    def _long_variable(self, text: str, position: Position) -> Tok:
        start = self.offset - 1
        end = self._balanced(start, position)
        text = "$" + self.text[start:end]
        self._advance(end)
        return Tok.make("VAR", text, Position(position.file, position.line, position.column, len(text)), text)

    def _balanced(self, start: int, position: Position) -> int:
        depth = 0
        for offset in range(start, min(len(self.text), start + 2000)):
            character = self.text[offset]
            if character == "(":
                depth += 1
            elif character == ")":
                depth -= 1
                if not depth:
                    return offset + 1
            elif character == "\n":
                break
        self.faults.add(position, "the parenthesis of this variable is never closed")
        return self._line_end(start)

    def _string(self, quote: str) -> Tok:
        start = self.offset
        position = self.position(start)
        offset = start + 1
        text = self.text
        while offset < len(text) and text[offset] != quote:
            offset += 2 if text[offset] == "\\" and quote == '"' else 1
        if offset >= len(text):
            end = self._line_end(start)
            self.faults.add(
                self.position(start, end - start), "this string is never closed", f"add the missing {quote}"
            )
            self._advance(end)
            return Tok.make("STRING", "", position, text[start + 1 : end])
        inside = text[start + 1 : offset]
        position = self.position(start, len(inside.split("\n", 1)[0]) + 2)
        self._advance(offset + 1)
        kind = "STRING" if quote == '"' else "RAWSTRING"
        return Tok.make(kind, inside, position, unescape(inside) if quote == '"' else inside)


_Maker = Callable[[Lexer, str, Position], "Tok | None"]
_MAKERS: Final[dict[str, Any]] = {  # Any: bound by name below, each is a _Maker
    "HEX": Lexer._number, "BIN": Lexer._number, "DEC": Lexer._number, "BADNUM": Lexer._bad_number,
    "WORD": Lexer._word, "OP": Lexer._operator, "CAST": Lexer._cast, "MSGLEN": Lexer._message_length,
    "RC": Lexer._return_code, "VAR": Lexer._variable, "PVPAREN": Lexer._long_variable,
}  # fmt: skip
