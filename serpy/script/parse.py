"""Tokens -> tree. Route bodies go through the lark grammar, top-level items are read here.

An error never hides the next one: the faulty statement is noted, cut out and the body is parsed again; a faulty
top-level item is skipped up to the next one.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from lark import Lark, Transformer, UnexpectedInput
from lark.lexer import Lexer as LarkLexer

from serpy.script import tree
from serpy.script.faults import Faults, Position, did_you_mean
from serpy.script.lexer import KEYWORDS, ROUTE_KINDS, TOP_WORDS, Tok
from serpy.script.preprocess import Preprocessor
from serpy.script.tree import Node

MAX_FAULTS_PER_BODY: Final = 50

_KINDS: Final = {"request_route": "route", "reply_route": "onreply_route"}
_SPELLED: Final = {
    "SEMI": "';'", "LPAR": "'('", "RPAR": "')'", "LBRACE": "'{'", "RBRACE": "'}'", "COMMA": "','", "COLON": "':'",
    "ASSIGN": "'='", "$END": "the end of the block",
}  # fmt: skip


class _TokenSource(LarkLexer):
    """Hands our tokens to lark."""

    def __init__(self, _: object) -> None:
        pass

    def lex(self, data: list[Tok]) -> Iterator[Tok]:  # type: ignore[override]  # lark passes our "text" through
        return iter(data)


class _Builder(Transformer[Tok, Any]):  # Any: start gives a list of nodes, the rest one node
    """Parse tree -> tree.py, while parsing."""

    def __init__(self, *, tight_not: bool) -> None:
        super().__init__()
        self._tight_not = tight_not

    def start(self, children: list[Node]) -> list[Node]:
        return children

    # statements
    def if_(self, c: list[Any]) -> Node:
        return tree.If(c[0].position, c[1], c[2], c[4] if len(c) > 3 else None)

    def while_(self, c: list[Any]) -> Node:
        return tree.While(c[0].position, c[1], c[2])

    def switch(self, c: list[Any]) -> Node:
        return tree.Switch(c[0].position, c[1], c[3:-1])

    def block(self, c: list[Any]) -> Node:
        return tree.Block(c[0].position, c[1:-1])

    def empty(self, c: list[Any]) -> Node:
        return tree.Empty(c[0].position)

    def leave(self, c: list[Any]) -> Node:
        return tree.Leave(c[0].position, str(c[0]), None)

    def leave_value(self, c: list[Any]) -> Node:
        return tree.Leave(c[0].position, str(c[0]), c[1])

    def assign(self, c: list[Any]) -> Node:
        return tree.Assign(c[0].position, self.variable(c[:1]), c[2])

    def expression(self, c: list[Any]) -> Node:
        return tree.Expression(c[0].position, c[0])

    def bare_call(self, c: list[Any]) -> Node:
        return tree.Expression(c[0].position, tree.Call(c[0].position, str(c[0]), []))

    def case(self, c: list[Any]) -> Node:
        return tree.Case(c[0].position, c[1], pattern=False, body=c[3:])

    def case_pattern(self, c: list[Any]) -> Node:
        return tree.Case(c[0].position, c[2], pattern=True, body=c[4:])

    def case_default(self, c: list[Any]) -> Node:
        return tree.Case(c[0].position, None, pattern=False, body=c[2:])

    # expressions
    def integer(self, c: list[Any]) -> tree.Integer:
        return tree.Integer(c[0].position, int(c[0].data))

    def minus(self, c: list[Any]) -> Node:
        return tree.Integer(c[0].position, -int(c[1].data))

    def string(self, c: list[Any]) -> Node:
        return tree.String(c[0].position, str(c[0].data))

    def word(self, c: list[Any]) -> Node:
        return tree.Word(c[0].position, str(c[0]))

    def address(self, c: list[Any]) -> Node:
        return tree.Address(c[0].position, str(c[0]).replace("[", "").replace("]", ""))

    def variable(self, c: list[Any]) -> tree.Variable:
        return tree.Variable(c[0].position, str(c[0].data))

    def select(self, c: list[Any]) -> Node:
        return tree.SelectRef(c[0].position, str(c[0]))

    def core(self, c: list[Any]) -> Node:
        return tree.Core(c[0].position, str(c[0]))

    def uri_part(self, c: list[Any]) -> Node:
        return tree.UriPart(c[0].position, str(c[0])[4:])

    def endpoint_proto(self, c: list[Any]) -> Node:
        return tree.Endpoint(c[0].position, c[0].data, _host(c[2]), 0)

    def endpoint_full(self, c: list[Any]) -> Node:
        return tree.Endpoint(c[0].position, c[0].data, _host(c[2]), int(c[4].data))

    def endpoint_port(self, c: list[Any]) -> Node:
        return tree.Endpoint(c[0].position, "", _host(c[0]), int(c[2].data))

    def call_empty(self, c: list[Any]) -> Node:
        return tree.Call(c[0].position, str(c[0]), [])

    def call(self, c: list[Any]) -> Node:
        return tree.Call(c[0].position, str(c[0]), c[2:-1:2])

    def string_op(self, c: list[Any]) -> Node:
        return tree.Unary(c[0].position, str(c[0]), c[2], parenthesised=True)

    def parenthesised(self, c: list[Any]) -> Node:
        inner: Node = c[1]
        if isinstance(inner, (tree.Unary, tree.Binary)):
            inner.parenthesised = True
        return inner

    def assign_expression(self, c: list[Any]) -> Node:
        return tree.AssignExpression(c[1].position, self.variable(c[1:2]), c[3])

    def unary_op(self, c: list[Any]) -> Node:
        operator = str(c[0].data) if c[0].type == "CAST" else str(c[0])
        if operator == "-" and isinstance(c[1], tree.Integer):
            return tree.Integer(c[0].position, -c[1].value)
        return tree.Unary(c[0].position, operator, c[1])

    def binary(self, c: list[Any]) -> Node:
        operator = {"and": "&&", "or": "||"}.get(str(c[1]), str(c[1]))
        return tree.Binary(c[0].position, operator, c[0], c[2])

    def not_(self, c: list[Any]) -> Node:
        """``!`` of 2.x covers a whole comparison; in the modern dialect only its left side, unless that is a core
        operand.
        """
        inner: Node = c[1]
        if self._tight_not and isinstance(inner, tree.Binary) and not inner.parenthesised:
            first = _leftmost(inner)
            if not isinstance(first.left, tree.Core):
                first.left = tree.Unary(c[0].position, "!", first.left)
                return inner
        return tree.Unary(c[0].position, "!", inner)


def _leftmost(node: tree.Binary) -> tree.Binary:
    while isinstance(node.left, tree.Binary) and not node.left.parenthesised:
        node = node.left
    return node


def _host(token: Tok) -> str:
    return str(token.data if token.type == "STRING" else token).strip("[]")


_PARSERS: dict[bool, Lark] = {}


def _parser(*, tight_not: bool) -> Lark:
    found = _PARSERS.get(tight_not)
    if found is None:
        grammar = (Path(__file__).parent / "grammar.lark").read_text(encoding="utf-8")
        found = _PARSERS[tight_not] = Lark(
            grammar,
            parser="lalr",
            lexer=_TokenSource,
            transformer=_Builder(tight_not=tight_not),
            maybe_placeholders=False,
        )
    return found


def parse_text(text: str, path: str, defines: dict[str, str], faults: Faults) -> tree.Script:
    """The tree of *text* with everything it includes. Errors are noted in *faults*."""
    preprocessor = Preprocessor(faults, defines)
    tokens = preprocessor.tokens(text, path)
    return _Items(tokens, path, preprocessor.dialect, faults).script()


class _Items:
    """Reads the top level of a file."""

    def __init__(self, tokens: list[Tok], path: str, dialect: str, faults: Faults) -> None:
        self.tokens = tokens
        self.place = 0
        self.end = tokens[-1].position if tokens else Position(path, 1, 1)
        self.dialect = dialect
        self.faults = faults

    def script(self) -> tree.Script:
        script = tree.Script(self.dialect)
        while self.place < len(self.tokens):
            before = self.place
            item = self._item()
            if item is not None:
                script.items.append(item)
            if self.place == before:
                self.place += 1
        return script

    def _peek(self, ahead: int = 0) -> str:
        index = self.place + ahead
        return self.tokens[index].type if index < len(self.tokens) else ""

    def _take(self) -> Tok:
        token = self.tokens[self.place]
        self.place += 1
        return token

    def _here(self) -> Position:
        return self.tokens[self.place].position if self.place < len(self.tokens) else self.end

    def _expect(self, kind: str, what: str) -> Tok | None:
        if self._peek() == kind:
            return self._take()
        found = f", found {str(self.tokens[self.place])!r}" if self.place < len(self.tokens) else ""
        self.faults.add(self._here(), f"expected {what}{found}")
        self._skip_item()
        return None

    def _skip_item(self) -> None:
        """Go to something that looks like the start of an item."""
        depth = 0
        while self.place < len(self.tokens):
            kind = self._peek()
            starts = kind == "ROUTEKIND" or kind in TOP_WORDS.values()
            if depth <= 0 and (starts or (kind in ("NAME", "DOTTED") and self._peek(1) == "ASSIGN")):
                return
            depth += (kind == "LBRACE") - (kind == "RBRACE")
            self.place += 1
            if depth <= 0 and kind == "SEMI":
                return

    def _item(self) -> Node | None:
        kind = self._peek()
        handlers: dict[str, Callable[[], Node | None]] = {
            "ROUTEKIND": self._route, "LOADMODULE": self._loadmodule, "LOADPATH": self._loadpath,
            "MODPARAM": self._modparam, "FLAGS": self._flags, "AVPFLAGS": self._flags, "DOTTED": self._custom_variable,
        }  # fmt: skip
        if kind == "SEMI":
            self.place += 1
            return None
        if kind in handlers:
            return handlers[kind]()
        if self._peek(1) == "ASSIGN":
            return self._setting()
        self._stray()
        return None

    def _stray(self) -> None:
        token = self._take()
        words = [*TOP_WORDS, *ROUTE_KINDS]
        hint = did_you_mean(str(token), words) if token.type == "NAME" else ""
        if token.type == "NAME" and self._peek() in ("LPAR", "SEMI") and "modparam" not in hint:
            hint = "statements belong inside a route block"
        if token.type == "RBRACE":
            hint = "there is one '}' too many before this place"
        self.faults.add(token.position, f"unexpected {str(token)!r} at the top level", hint)
        self._skip_item()

    def _loadmodule(self) -> Node | None:
        start = self._take()
        name = self._expect("STRING", "a module name in quotes")
        return None if name is None else tree.LoadModule(name.position, str(name.data)) if start else None

    def _loadpath(self) -> None:
        self._take()
        if self._peek() == "ASSIGN":
            self._take()
        self._expect("STRING", "a path in quotes")

    def _modparam(self) -> Node | None:
        start = self._take()
        if self._expect("LPAR", "'('") is None:
            return None
        pattern = self._expect("STRING", "a module name in quotes")
        if pattern is None or self._expect("COMMA", "','") is None:
            return None
        name = self._expect("STRING", "a parameter name in quotes")
        if name is None:
            return None
        value: Node | None = None
        if self._peek() == "COMMA":
            self._take()
            value = self._value()
            if value is None:
                return None
        if self._expect("RPAR", "')'") is None:
            return None
        as_string = [tree.String(token.position, str(token.data)) for token in (pattern, name)]
        return tree.ModParam(start.position, as_string[0], as_string[1], value)

    def _value(self) -> Node | None:
        """A constant: number, string, word, address or ``proto:host:port``."""
        if self.place >= len(self.tokens):
            self.faults.add(self.end, "a value is missing")
            return None
        token = self._take()
        kind = token.type
        if kind == "INT":
            return tree.Integer(token.position, int(token.data))
        if kind == "MINUS" and self._peek() == "INT":
            return tree.Integer(token.position, -int(self._take().data))
        if kind == "PROTO" and self._peek() == "COLON":
            self._take()
            return self._endpoint(token, str(token.data))
        if kind in ("IP4", "IP6") or (kind in ("STRING", "NAME", "DOTTED") and self._peek() == "COLON"):
            self.place -= 1
            return self._endpoint(token, "")
        if kind == "STRING":
            return tree.String(token.position, str(token.data))
        if kind in ("NAME", "DOTTED", "CORE", "PROTO") or kind in KEYWORDS.values():
            return tree.Word(token.position, str(token))
        self.faults.add(token.position, f"expected a value, found {str(token)!r}", "text needs quotes")
        self._skip_item()
        return None

    def _endpoint(self, start: Tok, transport: str) -> Node | None:
        if self._peek() not in ("IP4", "IP6", "NAME", "DOTTED", "STRING", "MULOP"):
            self.faults.add(self._here(), "expected an address", "for example: udp:192.0.2.1:5060")
            self._skip_item()
            return None
        host = self._take()
        port = 0
        if self._peek() == "COLON" and self._peek(1) in ("INT", "MULOP"):
            self._take()
            number = self._take()
            port = int(number.data) if number.type == "INT" else 0
        elif not transport and host.type in ("IP4", "IP6"):
            return tree.Address(start.position, _host(host))
        return tree.Endpoint(start.position, transport, _host(host), port)

    def _setting(self) -> Node | None:
        name = self._take()
        self._take()
        values: list[Node] = []
        while True:
            value = self._value()
            if value is None:
                return None
            values.append(value)
            word = str(self.tokens[self.place]) if self.place < len(self.tokens) else ""
            if str(name) == "listen" and word in ("advertise", "name"):
                continue
            more = self._peek() in ("PROTO", "IP4", "IP6", "STRING", "DOTTED", "NAME", "MULOP")
            if str(name) not in ("listen", "alias") or not more or self._peek(1) in ("ASSIGN", "LPAR"):
                break
        return tree.Setting(name.position, str(name), values)

    def _custom_variable(self) -> Node | None:
        dotted = self._take()
        group, _, name = str(dotted).partition(".")
        if self._expect("ASSIGN", "'='") is None:
            return None
        value = self._value()
        if value is None:
            return None
        description = ""
        if self.place < len(self.tokens) and str(self.tokens[self.place]) in ("desc", "descr", "description"):
            self._take()
            text = self._expect("STRING", "a description in quotes")
            description = str(text.data) if text is not None else ""
        if not isinstance(value, (tree.Integer, tree.String)):
            self.faults.add(value.position, f"{dotted} needs a number or a string in quotes")
            return None
        return tree.CustomVariable(dotted.position, group, name, value.value, description)

    def _flags(self) -> Node | None:
        start = self._take()
        names: list[tuple[str, int, Position]] = []
        while True:
            name = self._take() if self._peek() in ("NAME", "STRING") else self._expect("NAME", "a flag name")
            if name is None:
                return None
            number = -1
            if self._peek() == "COLON":
                self._take()
                value = self._expect("INT", "a flag number")
                if value is None:
                    return None
                number = int(value.data)
            names.append((str(name.data), number, name.position))
            if self._peek() != "COMMA":
                break
            self._take()
        if self._peek() == "SEMI":
            self._take()
        return tree.FlagNames(start.position, start.type == "AVPFLAGS", names)

    # -- routes

    def _route(self) -> Node | None:
        start = self._take()
        if self._expect("LBRACE", "'{'") is None:
            return None
        body = self._body(start)
        kind = _KINDS.get(str(start), str(start))
        name = "" if start.data == "0" and kind in ("route", "onreply_route") else str(start.data)
        return tree.Route(start.position, kind, name, self._parse(body))

    def _body(self, start: Tok) -> list[Tok]:
        """The tokens up to the matching brace; a new route block inside means that one is missing."""
        first = self.place
        depth = 1
        while self.place < len(self.tokens):
            kind = self._peek()
            if kind == "ROUTEKIND" or kind in ("LOADMODULE", "MODPARAM"):
                self.faults.add(start.position, f"the block of this {start} is never closed", "add the missing '}'")
                return self.tokens[first : self.place]
            depth += (kind == "LBRACE") - (kind == "RBRACE")
            self.place += 1
            if not depth:
                return self.tokens[first : self.place - 1]
        self.faults.add(start.position, f"the block of this {start} is never closed", "add the missing '}'")
        return self.tokens[first:]

    def _parse(self, body: list[Tok]) -> list[Node]:
        parser = _parser(tight_not=self.dialect == "kamailio")
        for _ in range(MAX_FAULTS_PER_BODY):
            try:
                result: list[Node] = parser.parse(body)  # type: ignore[assignment]  # our tokens are the text
            except UnexpectedInput as error:
                index, missing = self._fault(error, body)
                body = [*body[:index], *missing, *body[index:]] if missing else _without_statement(body, index)
            else:
                return result
        return []

    def _fault(self, error: UnexpectedInput, body: list[Tok]) -> tuple[int, list[Tok]]:
        """Describe one syntax error; returns the index of the token it was found at and what is missing there."""
        token = getattr(error, "token", None)
        index = next((i for i, candidate in enumerate(body) if candidate is token), len(body))
        accepts = set(getattr(error, "accepts", None) or getattr(error, "expected", None) or ())
        previous = body[index - 1] if 0 < index <= len(body) else None
        if "SEMI" in accepts and previous is not None:
            hint = did_you_mean(str(previous), KEYWORDS) if previous.type == "NAME" and index > 1 else ""
            self.faults.add(previous.position, f"';' is missing after {str(previous)!r}", hint)
            return index, [Tok.make("SEMI", ";", previous.position)]
        if index >= len(body) or not isinstance(token, Tok):
            self.faults.add(body[-1].position if body else self.end, "the block ends in the middle of a statement")
        else:
            self.faults.add(token.position, f"unexpected {str(token)!r}", _hint(token, previous, accepts))
        return index, []


def _hint(token: Tok, previous: Tok | None, accepts: set[str]) -> str:
    if token.type == "ASSIGN" and previous is not None and previous.type != "VAR":
        return "compare with '=='; only '$name = value' is an assignment"
    if token.type == "ELSE":
        return "no 'if' before this 'else'; is there a ';' or a '}' too many?"
    if previous is not None and previous.type == "NAME" and previous.data:
        close = did_you_mean(str(previous), KEYWORDS)
        if close:
            return close
    if token.type == "BAND":
        return "'and' is written &&"
    spelled = sorted(_SPELLED[kind] for kind in accepts if kind in _SPELLED)
    return f"expected {' or '.join(spelled)}" if 0 < len(spelled) <= 3 else ""


def _without_statement(body: list[Tok], index: int) -> list[Tok]:
    """*body* without the statement around *index*, keeping its braces balanced."""
    start = min(index, len(body) - 1)
    while start > 0 and body[start - 1].type not in ("SEMI", "LBRACE", "RBRACE"):
        start -= 1
    end = index
    depth = 0
    while end < len(body):
        kind = body[end].type
        if kind == "RBRACE" and depth == 0:
            break
        depth += (kind == "LBRACE") - (kind == "RBRACE")
        end += 1
        if depth == 0 and kind in ("SEMI", "RBRACE"):
            break
    while end < len(body) and body[end].type == "ELSE":  # the rest of an if chain goes with it
        end += 1
        depth = 0
        while end < len(body):
            kind = body[end].type
            depth += (kind == "LBRACE") - (kind == "RBRACE")
            end += 1
            if depth <= 0 and kind in ("SEMI", "RBRACE"):
                break
    if end <= start:
        return body[:start]
    return body[:start] + body[end:]
