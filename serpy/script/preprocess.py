"""Directives, defines and includes, as a filter over the tokens: conditionals may stand in the middle of an expression.

``#!define`` values are kept as text and lexed again where they are used. ``-A NAME=value`` from the command line is
predefined: a value that is a number, a boolean word, an address, a network, a listen address or quoted text is taken
as written, anything else (``-A DB_URL=sqlite:////x``) is a string.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from serpy.script.faults import Faults, Position, did_you_mean
from serpy.script.lexer import BOOLEANS, Lexer, Tok, unescape

MAX_INCLUDE_DEPTH: Final = 10
MAX_CONDITIONALS: Final = 256
MAX_EXPANSIONS: Final = 32  # a define whose value names another one …

DIALECTS: Final = {
    "SER": "ser", "OPENSER": "kamailio", "KAMAILIO": "kamailio", "MAXCOMPAT": "default", "ALL": "default",
}  # fmt: skip
_DIRECTIVES: Final = [
    "define",
    "def",
    "trydef",
    "trydefine",
    "redefine",
    "redef",
    "undef",
    "ifdef",
    "ifndef",
    "else",
    "endif",
    "subst",
    "substdef",
    "substdefs",
    "ifexp",
    "defexp",
    "defenv",
    "include_file",
    "import_file",
]
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_RAW_VALUE: Final = re.compile(
    r"-?[1-9]\d*|0|0x[0-9a-fA-F]+|\".*\"|'.*'"
    r"|(?:(?:udp|tcp|tls|sctp|ws|wss):)?(?:\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:.]+\])(?::\d+)?(?:/[\d.]+)?",
    re.DOTALL | re.ASCII,
)


def command_line_value(value: str) -> str:
    """The text that stands for ``-A NAME=value`` in the script."""
    if not value or value in BOOLEANS or _RAW_VALUE.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Preprocessor:
    """Yields the tokens of a file and everything it includes. ``dialect`` is "default", "ser" or "kamailio"."""

    def __init__(self, faults: Faults, defines: dict[str, str]) -> None:
        self.faults = faults
        self.dialect = "default"
        self.defines = {name: command_line_value(value) for name, value in defines.items()}
        self._from_command_line = set(defines)
        self._substitutions: list[tuple[re.Pattern[str], str, bool]] = []
        self._conditionals: list[tuple[Position, bool]] = []  # (where, an #!else was seen)
        self._includes: list[str] = []

    def tokens(self, text: str, path: str) -> list[Tok]:
        """All tokens; adjacent double-quoted strings are joined."""
        result: list[Tok] = []
        self._file(text, path, result)
        return _join_strings(result)

    def _file(self, text: str, path: str, result: list[Tok]) -> None:
        self.faults.sources[path] = text.replace("\r\n", "\n").split("\n")
        self._includes.append(path)
        outer, self._conditionals = self._conditionals, []
        lexer = Lexer(text, path, self.faults)
        while True:
            token = lexer.next()
            if token is None:
                break
            if token.type == "DIRECTIVE":
                self._directive(token, lexer, result)
            elif token.type == "NAME" and str(token) in ("include_file", "import_file"):
                self._include_statement(token, lexer, result)
            else:
                self._emit(token, result, 0)
        for position, _ in self._conditionals:
            self._never_closed(position, result)
        self._conditionals = outer
        self._includes.pop()

    def _never_closed(self, position: Position, result: list[Tok]) -> None:
        """An error, unless the main route is complete by then: SER's published file forgets its last #!endif."""
        for index in range(len(result) - 1):
            if str(result[index]) in ("route", "request_route") and str(result[index + 1]) == "{":
                self.faults.warn(position, "this conditional is never closed: it ends with the file")
                return
        self.faults.add(position, "this conditional is never closed", "add the missing #!endif")

    def _emit(self, token: Tok, result: list[Tok], depth: int) -> None:
        kind = token.type
        if kind in ("STRING", "RAWSTRING") and self._substitutions:
            token.data = self._substitute(str(token.data))
        elif kind == "ROUTEKIND" and token.data in self.defines:
            self._rename_route(token)
        elif _NAME.fullmatch(str(token)) and str(token) in self.defines and kind not in ("STRING", "RAWSTRING", "VAR"):
            self._expand(token, result, depth)
            return
        result.append(token)

    def _rename_route(self, token: Tok) -> None:
        """``route[NAME]`` where NAME is a define, too: the route gets its value as a name."""
        name = str(token.data)
        token.data = self.defines[name].strip("\"'")
        if token.data != name:
            self.faults.warn(token.position, f"{name!r} is a define: this is {token}[{token.data}]")

    def _expand(self, token: Tok, result: list[Tok], depth: int) -> None:
        if depth > MAX_EXPANSIONS:
            self.faults.add(token.position, f"the define {str(token)!r} refers to itself")
            return
        lexer = Lexer(self.defines[str(token)], token.position.file, self.faults, token.position)
        while True:
            inner = lexer.next()
            if inner is None:
                return
            self._emit(inner.at(token.position), result, depth + 1)

    def _substitute(self, text: str) -> str:
        for pattern, replacement, everywhere in self._substitutions:
            text = pattern.sub(replacement, text, count=0 if everywhere else 1)
        return text

    def _directive(self, token: Tok, lexer: Lexer, result: list[Tok]) -> None:
        word, _, rest = str(token).partition(" ")
        word, rest = word.rstrip("\t"), rest.strip(" \t")
        if "\t" in word:
            word, _, more = word.partition("\t")
            rest = f"{more} {rest}".strip(" \t")
        position = token.position
        if word in ("ifdef", "ifndef"):
            self._conditional(word, rest, position, lexer)
        elif word == "ifexp":
            self._condition(self._ifexp(rest), position, lexer)
        elif word == "else":
            self._else(position, lexer)
        elif word == "endif":
            if not self._conditionals:
                self.faults.add(position, "#!endif without #!ifdef")
            else:
                self._conditionals.pop()
        elif word in ("subst", "substdef", "substdefs"):
            self._subst(word, rest, position)
        elif word in ("include_file", "import_file"):
            self._include(rest.strip("\"'"), position, result, must_exist=word == "include_file")
        elif word in _DIRECTIVES:
            self._define(word, rest, position)
        elif word in DIALECTS:
            self.dialect = DIALECTS[word]
        else:
            self._unknown(word, position)

    def _unknown(self, word: str, position: Position) -> None:
        hint = did_you_mean(word, [*_DIRECTIVES, *DIALECTS]).replace("'", "'#!", 1) if _NAME.fullmatch(word) else ""
        if hint:
            self.faults.add(position, f"unknown directive '#!{word}'", hint)

    # -- conditionals

    def _conditional(self, word: str, name: str, position: Position, lexer: Lexer) -> None:
        name = name.split("#", 1)[0].strip(" \t")
        if not _NAME.fullmatch(name):
            self.faults.add(position, f"#!{word} needs one name", f"for example: #!{word} WITH_TLS")
        self._condition((name in self.defines) == (word == "ifdef"), position, lexer)

    def _ifexp(self, text: str) -> bool:
        value = self.defines.get(text, text).strip("\"' ")
        return value not in ("", "0", "no", "false", "off")

    def _condition(self, wanted: bool, position: Position, lexer: Lexer) -> None:
        if len(self._conditionals) >= MAX_CONDITIONALS:
            self.faults.add(position, f"more than {MAX_CONDITIONALS} nested conditionals")
            return
        self._conditionals.append((position, False))
        if not wanted:
            self._skip(lexer)

    def _else(self, position: Position, lexer: Lexer) -> None:
        """Reached only when the first half was kept: skip the second."""
        if not self._conditionals:
            self.faults.add(position, "#!else without #!ifdef")
            return
        if self._conditionals[-1][1]:
            self.faults.add(position, "a second #!else for the same #!ifdef")
        self._conditionals[-1] = (self._conditionals[-1][0], True)
        self._skip(lexer)

    def _skip(self, lexer: Lexer) -> None:
        """Skip lines up to the matching #!else (when not seen yet) or #!endif."""
        depth = 0
        lexer.skip_line()  # the rest of the directive's own line
        while True:
            line = lexer.skip_line()
            if line is None:
                return
            line = line.lstrip(" \t")
            if not line.startswith("#!"):
                continue
            words = line[2:].split()
            word = words[0] if words else ""
            if word in ("ifdef", "ifndef", "ifexp"):
                depth += 1
            elif word == "endif":
                if not depth:
                    self._conditionals.pop()
                    return
                depth -= 1
            elif word == "else" and not depth and not self._conditionals[-1][1]:
                self._conditionals[-1] = (self._conditionals[-1][0], True)
                return

    # -- defines

    def _define(self, word: str, rest: str, position: Position) -> None:
        match = _NAME.match(rest)
        if match is None:
            self.faults.add(position, f"#!{word} needs a name", "for example: #!define NAME value")
            return
        name, value = match.group(), _cut_comment(rest[match.end() :].strip(" \t"))
        if word == "undef":
            self.defines.pop(name, None)
        elif word in ("redefine", "redef") or name not in self.defines:
            self.defines[name] = value
        elif word in ("define", "def") and name not in self._from_command_line:
            self.faults.add(position, f"{name!r} is defined twice", "use #!redefine to replace, #!trydef for a default")

    def _subst(self, word: str, rest: str, position: Position) -> None:
        text = unescape(rest.strip('"')) if rest.startswith('"') else rest
        separator = text[:1]
        parts = text[1:].split(separator) if separator else []
        if len(parts) < 3:
            self.faults.add(position, f'#!{word} needs "/what/replacement/flags"')
            return
        what, replacement, flags = parts[0], parts[1], parts[2]
        if word != "subst" and what not in self.defines:
            self.defines[what] = f'"{replacement}"' if word == "substdefs" else replacement
        try:
            pattern = re.compile(what, re.IGNORECASE if "i" in flags else 0)
        except re.error as error:
            self.faults.add(position, f"bad regular expression: {error}")
            return
        self._substitutions.append((pattern, replacement, "g" in flags or word != "subst"))

    # -- includes

    def _include_statement(self, token: Tok, lexer: Lexer, result: list[Tok]) -> None:
        name: list[Tok] = []
        following = lexer.next()
        if following is not None:
            self._emit(following, name, 0)
        if len(name) != 1 or name[0].type not in ("STRING", "RAWSTRING"):
            self.faults.add(token.position, f"{token} needs a file name in quotes")
            return
        self._include(str(name[0].data), name[0].position, result, must_exist=str(token) == "include_file")

    def _include(self, name: str, position: Position, result: list[Tok], *, must_exist: bool) -> None:
        if len(self._includes) > MAX_INCLUDE_DEPTH:
            self.faults.add(position, f"more than {MAX_INCLUDE_DEPTH} nested includes")
            return
        path = Path(name)
        if not path.is_file() and not path.is_absolute():
            path = Path(position.file).parent / name
        if not path.is_file() and not must_exist:
            return
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            self.faults.add(
                position, f"cannot read {name!r}: {error.strerror}", "a file that may be missing: import_file"
            )
            return
        self._file(text, str(path), result)


def _cut_comment(value: str) -> str:
    """*value* without a trailing ``# comment`` outside quotes."""
    quote = ""
    for offset, character in enumerate(value):
        if quote:
            if character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character == "#":
            return value[:offset].rstrip(" \t")
    return value


def _join_strings(tokens: list[Tok]) -> list[Tok]:
    result: list[Tok] = []
    for token in tokens:
        if token.type == "STRING" and result and result[-1].type == "STRING":
            previous = result[-1]
            joined = f"{previous.data}{token.data}"
            result[-1] = Tok.make("STRING", f"{previous}{token}", previous.position, joined)
        else:
            result.append(token)
    for index, token in enumerate(result):
        if token.type == "RAWSTRING":
            result[index] = Tok.make("STRING", str(token), token.position, token.data)
    return result
