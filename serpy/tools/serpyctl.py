"""serpyctl: domains, users, contacts and the running server, from the command line.

The database part works with the server stopped; the rest speaks to its ctl socket. The same -f, -Y and -A as serpy
mean the same server and the same database. Exit status: 0 done, 1 the wish cannot be fulfilled (``ERROR: text:
argument`` on standard error), 2 wrong usage or configuration, 3 the server does not answer.

Runs in: its own process. Locks: none.
"""

# PYTHON_ARGCOMPLETE_OK
from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import argcomplete

import serpy
from serpy.db import schema
from serpy.errors import BackendError, ConfigError, SerpyError, UsageError
from serpy.rpc.protocol import RpcFault, call
from serpy.shm.record import Binding
from serpy.tools import attributes
from serpy.tools.provision import Provision
from serpy.tools.tables import say, show

if TYPE_CHECKING:
    from serpy.db.interface import Database

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_SERVER = 3
RPC_TIMEOUT_S = 10.0
_FLAGS = {Binding.NAT: "nat", Binding.PERMANENT: "permanent", Binding.MEM: "replica", Binding.FLOW: "flow"}
BATCH = 500  # contacts asked for in one call

Options = argparse.Namespace
Handler = Callable[["Ctl"], None]


class Ctl:
    """One invocation: its options, and the server and database they mean."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._provision: Provision | None = None

    # -------------------------------------------------------------------------------------------- the two ends

    def socket(self) -> str:
        """The ctl socket of the server in the run directory."""
        return str(Path(self.options.run_dir) / "ctl")

    def rpc(self, method: str, *params: object) -> object:
        """Call the running server. Raises RpcFault, or OSError when there is none."""
        return call(self.socket(), method, list(params), RPC_TIMEOUT_S)

    def database(self, *, create: bool = False) -> Database:
        """The database that the configuration file names. Raises ConfigError, BackendError."""
        from serpy import loader  # noqa: PLC0415 - compiling the script is only needed for the database

        url = loader.database_url(self.options.file, _defines(self.options))
        return loader.open_database(url, create=create)

    @property
    def provision(self) -> Provision:
        """The database commands."""
        if self._provision is None:
            self._provision = Provision(self.database())
        return self._provision

    def changed(self, *names: str) -> None:
        """Tell a running server to forget what it has cached of tables *names*; a failure is only a warning."""
        if not Path(self.socket()).exists():
            return
        try:
            for name in names:
                self.rpc("cache.bump", name)
        except (OSError, RpcFault) as exc:
            say(f"WARNING: the database is changed, but the server was not told: {exc}", sys.stderr)

    def show(self, data: object, empty: str = "nothing found") -> None:
        """Print a result."""
        show(data, as_json=self.options.json, empty=empty)

    def say(self, text: str) -> None:
        """Print a confirmation, unless the output is for a program."""
        if not self.options.json:
            say(text)

    def password(self) -> str:
        """The password given with -p, else typed twice."""
        if self.options.password is not None:
            return str(self.options.password)
        first = getpass.getpass("password: ")
        if first != getpass.getpass("again: "):
            raise UsageError("the two passwords differ: nothing changed")
        return first


def _defines(options: Options) -> dict[str, str]:
    from serpy.loader import parse_define  # noqa: PLC0415 - see Ctl.database

    return dict(parse_define(text) for text in options.define)


# ---------------------------------------------------------------------------------------------------- commands


def _domain_add(ctl: Ctl) -> None:
    did = ctl.provision.domain_add(ctl.options.domain, ctl.options.alias)
    ctl.changed("domain")
    ctl.say(f"domain {did} added")


def _domain_rm(ctl: Ctl) -> None:
    for name in ctl.options.domain:
        ctl.provision.domain_rm(name)
    ctl.changed("domain", "uri", "credentials")
    ctl.say(f"domain {' '.join(ctl.options.domain)} removed")


def _domain_show(ctl: Ctl) -> None:
    ctl.show(ctl.provision.domain_show(ctl.options.domain or ""), "no domains; add one: serpyctl domain add NAME")


def _user_add(ctl: Ctl) -> None:
    uid = ctl.provision.user_add(ctl.options.uri, ctl.password(), ctl.options.alias, keep_clear=ctl.options.clear)
    ctl.changed("uri", "credentials", "user_attrs")
    ctl.say(f"user {uid} added")


def _user_import(ctl: Ctl) -> None:
    path = ctl.options.list
    lines = sys.stdin.readlines() if path == "-" else Path(path).read_text(encoding="utf-8").splitlines()
    count = ctl.provision.user_import(lines)
    ctl.changed("uri", "credentials", "user_attrs")
    ctl.say(f"{count} users added")


def _user_rm(ctl: Ctl) -> None:
    uid = ctl.provision.user_rm(ctl.options.uri)
    ctl.changed("uri", "credentials", "user_attrs")
    if Path(ctl.socket()).exists():
        try:
            ctl.rpc("usrloc.delete_uid", "location", uid)
        except RpcFault as exc:
            if exc.code != 404:
                say(f"WARNING: the user is removed, but the contacts stay until they expire: {exc}", sys.stderr)
    ctl.say(f"user {uid} removed")


def _user_show(ctl: Ctl) -> None:
    rows = ctl.provision.user_show(ctl.options.uri or "")
    if not ctl.options.uri:
        ctl.show(rows, "no users; add one: serpyctl user add USER@DOMAIN")
        return
    parts = {
        "uris": rows,
        "credentials": ctl.provision.user_credentials(ctl.options.uri),
        "attributes": attributes.attrs_show(ctl.provision, ctl.options.uri),
    }
    if ctl.options.json:
        ctl.show(parts)
        return
    for number, (title, part) in enumerate(parts.items()):
        sys.stdout.write(f"{chr(10) if number else ''}{title}:\n")
        ctl.show(part)


def _password(ctl: Ctl) -> None:
    ctl.provision.password(ctl.options.uri, ctl.password(), keep_clear=ctl.options.clear)
    ctl.changed("credentials")
    ctl.say(f"password of {ctl.options.uri} changed")


def _alias_add(ctl: Ctl) -> None:
    ctl.provision.alias_add(ctl.options.uri, ctl.options.alias)
    ctl.changed("uri")
    ctl.say(f"{' '.join(ctl.options.alias)} added")


def _alias_rm(ctl: Ctl) -> None:
    ctl.provision.alias_rm(ctl.options.alias)
    ctl.changed("uri")
    ctl.say(f"{' '.join(ctl.options.alias)} removed")


def _attrs_set(ctl: Ctl) -> None:
    ctl.changed(attributes.attrs_set(ctl.provision, ctl.options.owner, ctl.options.assignment))
    ctl.say(f"attributes of {ctl.options.owner} changed")


def _attrs_show(ctl: Ctl) -> None:
    ctl.show(attributes.attrs_show(ctl.provision, ctl.options.owner))


def _speeddial_add(ctl: Ctl) -> None:
    attributes.speed_dial_add(ctl.provision, ctl.options.uri, ctl.options.number, ctl.options.target)
    ctl.changed("speed_dial")
    ctl.say(f"{ctl.options.number} of {ctl.options.uri} is {ctl.options.target}")


def _speeddial_rm(ctl: Ctl) -> None:
    attributes.speed_dial_rm(ctl.provision, ctl.options.uri, ctl.options.number)
    ctl.changed("speed_dial")
    ctl.say(f"{ctl.options.number} of {ctl.options.uri} removed")


def _speeddial_show(ctl: Ctl) -> None:
    ctl.show(attributes.speed_dial_show(ctl.provision, ctl.options.uri), "no speed dials")


def _usrloc_show(ctl: Ctl) -> None:
    uid = ctl.provision.uid_of(ctl.options.uri) if ctl.options.uri else ""
    if Path(ctl.socket()).exists():
        try:
            rows = ctl.rpc("usrloc.show_contacts", "location", uid) if uid else ctl.rpc("usrloc.dump", "location")
        except RpcFault as exc:
            if exc.code != 404:
                raise
            rows = []
    else:
        rows = ctl.provision.contacts(uid)
    if not ctl.options.json and isinstance(rows, list):
        for row in rows:
            if row.get("q", 0) in (-1, ""):
                row["q"] = ""  # no preference given
            if isinstance(row.get("flags"), int):
                row["flags"] = _flags(row["flags"])
    if ctl.options.contact and isinstance(rows, list):
        rows = [row for row in rows if row.get("contact") == ctl.options.contact]
    ctl.show(rows, "no contacts are registered")


def _flags(flags: int) -> str:
    """What the *flags* of a binding say; bits of others as a number."""
    names = [name for bit, name in _FLAGS.items() if flags & bit]
    rest = flags & ~sum(_FLAGS)
    return ",".join([*names, str(rest)] if rest else names)


def _calls_list(ctl: Ctl) -> None:
    rows = ctl.rpc("calls.list", *([ctl.options.text] if ctl.options.text else []))
    ctl.show(rows, "no calls")


def _calls_show(ctl: Ctl) -> None:
    ctl.show(ctl.rpc("calls.show", ctl.options.call))


def _q(text: str) -> float:
    """The preference written as *text*, -1 when there is none."""
    whole, _, part = (text or "-1").partition(".")
    if text and not (whole in ("0", "1") and len(part) <= 3 and (not part or (part.isascii() and part.isdigit()))):
        raise UsageError(f"q must be 0 to 1 with at most three digits: {text}")
    return float(text or "-1")


def _usrloc_add(ctl: Ctl) -> None:
    wishes = dict(word.partition("=")[::2] for word in ctl.options.wish)
    unknown = set(wishes) - {"expires", "q", "flags"}
    if unknown:
        raise UsageError(f"takes expires=S, q=Q and flags=N only: {' '.join(sorted(unknown))}")
    expires = _number(wishes.get("expires", "0"))
    # Without a lifetime the contact is permanent.
    flags = _number(wishes.get("flags", "0")) | (0 if expires else Binding.PERMANENT)
    uid = ctl.provision.uid_of(ctl.options.uri)
    ctl.rpc("usrloc.add_contact", "location", uid, ctl.options.contact, expires, _q(wishes.get("q", "")), flags)
    ctl.say(f"{ctl.options.contact} added")


def _usrloc_rm(ctl: Ctl) -> None:
    uid = ctl.provision.uid_of(ctl.options.uri)
    if ctl.options.contact:
        ctl.rpc("usrloc.delete_contact", "location", uid, ctl.options.contact)
    else:
        ctl.rpc("usrloc.delete_uid", "location", uid)
    ctl.say(f"{ctl.options.contact or 'all contacts'} of {ctl.options.uri} removed")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise UsageError(f"not a number: {text}")
    return int(text)


def _plain_rpc(method: str) -> Handler:
    def run(ctl: Ctl) -> None:
        ctl.show(ctl.rpc(method))

    return run


def _replication_status(ctl: Ctl) -> None:
    status = ctl.rpc("replication.status")
    if ctl.options.json or not isinstance(status, dict):
        ctl.show(status)
        return
    peers, counters = status.pop("peers"), status.pop("counters")
    for number, (title, part) in enumerate((("this server", status), ("peers", peers), ("counters", counters))):
        sys.stdout.write(f"{chr(10) if number else ''}{title}:\n")
        ctl.show(part, "no other server has been heard")


def _replication_diff(ctl: Ctl) -> None:
    server = _number(ctl.options.server) if ctl.options.server else -1
    ctl.show(ctl.rpc("replication.diff", server), "no difference")


def _ban_list(ctl: Ctl) -> None:
    ctl.show(ctl.rpc("ban.list"), "nobody is held")


def _ban_why(ctl: Ctl) -> None:
    ctl.show(ctl.rpc("ban.why", ctl.options.address))


def _ban_lift(ctl: Ctl) -> None:
    ctl.say(str(ctl.rpc("ban.lift", ctl.options.address)))


def _ban_add(ctl: Ctl) -> None:
    ctl.say(str(ctl.rpc("ban.add", ctl.options.address, _number(ctl.options.seconds))))


def _trust_show(ctl: Ctl) -> None:
    ctl.show(ctl.rpc("trust.show", ctl.options.uri) if ctl.options.uri else ctl.rpc("trust.state"))


def _version(ctl: Ctl) -> None:
    versions = {"serpyctl": serpy.__version__}
    if Path(ctl.socket()).exists():
        versions["server"] = str(ctl.rpc("core.version"))
    ctl.show(versions)


def _rpc(ctl: Ctl) -> None:
    ctl.show(ctl.rpc(ctl.options.method, *(_rpc_argument(word) for word in ctl.options.argument)))


def _rpc_argument(word: str) -> object:
    """As sercmd reads it: a number is a number, ``s:`` forces a string."""
    if word.startswith("s:"):
        return word[2:]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _check(ctl: Ctl) -> None:
    from serpy import loader  # noqa: PLC0415 - see Ctl.database

    expressions = loader.check(ctl.options.checked or ctl.options.file, _defines(ctl.options))
    if ctl.options.expressions:
        ctl.show(expressions, "no regular expressions")
        return
    ctl.say("config file ok")


def _db_create(ctl: Ctl) -> None:
    schema.create(ctl.database(create=True))
    ctl.say("database ready")


def _db_check(ctl: Ctl) -> None:
    problems = schema.check(ctl.database())
    if problems:
        raise UsageError(f"the database needs 'serpyctl db upgrade': {'; '.join(problems)}")
    ctl.say("database ok")


def _db_upgrade(ctl: Ctl) -> None:
    done = schema.upgrade(ctl.database())
    ctl.show(done, "nothing to do")


def _quickstart(ctl: Ctl) -> None:
    from serpy.tools import quickstart  # noqa: PLC0415 - only for this command

    quickstart.run(ctl.options.file, ctl.options.run_dir, ctl.options.define, ctl.options.listen)


def _help(ctl: Ctl) -> None:
    ctl.options.parser.print_help()


# ---------------------------------------------------------------------------------------------------- the grammar


class Argument(NamedTuple):
    """One argument of a command, as argparse takes it."""

    name: str
    options: dict[str, Any]  # Any: whatever add_argument takes


def _arg(name: str, **options: Any) -> Argument:  # Any: as above
    return Argument(name, options)


_URI = _arg("uri", metavar="URI", help="user@domain")
_OWNER = _arg("owner", metavar="OWNER", help="user@domain, domain=NAME, uri=user@domain or global")
_OPTIONAL_URI = _arg("uri", metavar="URI", nargs="?", help="user@domain")
_PASSWORD = _arg("-p", dest="password", metavar="PASSWORD", help="asked for when not given")
_CLEAR = _arg("--clear", action="store_true", help="store the password readable too (for calculate_ha1)")
_ALIASES = _arg("alias", metavar="ALIAS", nargs="*", default=[])
_ADDRESS = _arg("address", metavar="ADDRESS", help="as ban list shows it")
_CONTACT = _arg("contact", metavar="CONTACT", nargs="?", help="sip:user@host:port")

COMMANDS: tuple[tuple[str, str, Handler, tuple[Argument, ...]], ...] = (
    ("domain add", "serve a domain, under one or more names", _domain_add,
     (_arg("domain", metavar="DOMAIN"), _ALIASES)),
    ("domain rm", "stop serving domains; removes their users' addresses", _domain_rm,
     (_arg("domain", metavar="DOMAIN", nargs="+"),)),
    ("domain show", "list domains", _domain_show, (_arg("domain", metavar="DOMAIN", nargs="?"),)),
    ("user add", "make a user", _user_add, (_URI, _ALIASES, _PASSWORD, _CLEAR)),
    ("user import", "make many users from lines of 'user@domain password'", _user_import,
     (_arg("list", metavar="FILE", help="- for standard input"),)),
    ("user rm", "remove a user and everything of theirs", _user_rm, (_URI,)),
    ("user show", "list users, or all of one", _user_show, (_OPTIONAL_URI,)),
    ("password", "set a user's password", _password, (_URI, _PASSWORD, _CLEAR)),
    ("alias add", "give a user further addresses", _alias_add, (_URI, _arg("alias", metavar="ALIAS", nargs="+"))),
    ("alias rm", "take addresses away", _alias_rm, (_arg("alias", metavar="ALIAS", nargs="+"),)),
    ("attrs set", "set attributes of a user, domain, address or the server (empty value: remove)", _attrs_set,
     (_OWNER, _arg("assignment", metavar="NAME=VALUE", nargs="+"))),
    ("attrs show", "list attributes", _attrs_show, (_OWNER,)),
    ("speeddial add", "what a user means by a short number", _speeddial_add,
     (_URI, _arg("number", metavar="NUMBER"), _arg("target", metavar="TARGET", help="user@domain"))),
    ("speeddial rm", "forget a short number", _speeddial_rm, (_URI, _arg("number", metavar="NUMBER"))),
    ("speeddial show", "list a user's short numbers", _speeddial_show, (_URI,)),
    ("usrloc show", "list registered contacts", _usrloc_show, (_OPTIONAL_URI, _CONTACT)),
    ("usrloc add", "register a contact by hand (permanent without expires=)", _usrloc_add,
     (_URI, _arg("contact", metavar="CONTACT"), _arg("wish", metavar="expires=S q=Q flags=N", nargs="*"))),
    ("usrloc rm", "remove one contact, or all of a user", _usrloc_rm, (_URI, _CONTACT)),
    ("calls list", "list calls and subscriptions", _calls_list,
     (_arg("text", metavar="TEXT", nargs="?", help="only those with this in caller, callee or Call-ID"),)),
    ("calls show", "everything that is remembered of a call", _calls_show,
     (_arg("call", metavar="CALL", help="id or Call-ID"),)),
    ("replication status", "show the other servers of the farm, and what was sent, taken, dropped and repaired",
     _replication_status, ()),
    ("replication diff", "compare the location table with those of the other servers", _replication_diff,
     (_arg("server", metavar="SERVER", nargs="?", help="server id of one of them"),)),
    ("ban list", "who is banned or quiet, why, and for how long still", _ban_list, ()),
    ("ban why", "what is remembered of an address: reason, counts, last events", _ban_why, (_ADDRESS,)),
    ("ban lift", "end a ban or silence", _ban_lift, (_ADDRESS,)),
    ("ban add", "ban an address by hand; phones known there go on", _ban_add,
     (_ADDRESS, _arg("seconds", metavar="SECONDS", nargs="?", default="3600", help="3600, at most 172800"))),
    ("trust show", "what strangers did to a user: wrong passwords, calls; without a user: how many are known", _trust_show,
     (_OPTIONAL_URI,)),
    ("ps", "list the server's processes", _plain_rpc("core.ps"), ()),
    ("stats", "show counters", _plain_rpc("stats.get"), ()),
    ("uptime", "show since when the server runs", _plain_rpc("core.uptime"), ()),
    ("version", "show versions", _version, ()),
    ("check", "check a configuration file", _check,
     (_arg("checked", metavar="FILE", nargs="?"),
      _arg("--expressions", action="store_true", help="list the regular expressions and what runs them"))),
    ("db create", "make the database and its tables; harmless when they exist", _db_create, ()),
    ("db check", "compare the tables with what this version needs", _db_check, ()),
    ("db upgrade", "add what is missing", _db_upgrade, ()),
    ("rpc", "call any RPC: serpyctl rpc system.listMethods", _rpc,
     (_arg("method", metavar="METHOD"), _arg("argument", metavar="ARG", nargs="*", help="s:TEXT forces a string"))),
    ("quickstart", "database, domain and two users, then the server in the foreground", _quickstart,
     (_arg("-l", dest="listen", metavar="ADDRESS", action="append", default=[]),)),
    ("help", "this text", _help, ()),
)  # fmt: skip


def _common(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """The options that stand before or behind the command."""

    def default(value: object) -> object:
        return value if top else argparse.SUPPRESS

    parser.add_argument("-f", dest="file", metavar="FILE", default=default("/etc/serpy/serpy.conf"),
                        help="configuration file (default /etc/serpy/serpy.conf)")  # fmt: skip
    parser.add_argument("-Y", dest="run_dir", metavar="DIR", default=default("/run/serpy"),
                        help="run directory of the server (default /run/serpy)")  # fmt: skip
    parser.add_argument("-A", dest="define", metavar="NAME=VALUE", action="append", default=default([]),
                        help="define, as for serpy")  # fmt: skip
    parser.add_argument("--json", action="store_true", default=default(value=False), help="print JSON")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="serpyctl", description="Administer a serpy server and its database.")
    _common(parser, top=True)
    parser.add_argument("-V", "--version", action="version", version=f"serpyctl {serpy.__version__}")
    top = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    groups: dict[str, Any] = {}  # Any: argparse keeps its type private
    for path, text, handler, arguments in COMMANDS:
        group, _, verb = path.partition(" ")
        if verb and group not in groups:
            verbs = [(line[0].split(" ")[1], line[1]) for line in COMMANDS if line[0].startswith(f"{group} ")]
            holder = top.add_parser(group, help=" | ".join(name for name, _ in verbs))
            groups[group] = holder.add_subparsers(metavar="VERB", required=True)
        where = groups[group] if verb else top
        command = where.add_parser(verb or group, help=text, description=f"{text[0].upper()}{text[1:]}.")
        _common(command, top=False)
        for argument in arguments:
            command.add_argument(argument.name, **argument.options)
        command.set_defaults(handler=handler, parser=parser)
    argcomplete.autocomplete(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = build_parser().parse_args(argv)
    ctl = Ctl(options)
    try:
        options.handler(ctl)
    except RpcFault as exc:
        return _fail(f"{exc.code} - {exc.text}", EXIT_FAILED)
    except (ConnectionError, FileNotFoundError, TimeoutError) as exc:
        if isinstance(exc, FileNotFoundError) and exc.filename and exc.filename != ctl.socket():
            return _fail(f"{exc.strerror}: {exc.filename}", EXIT_FAILED)
        return _fail(f"no server answers on its ctl socket (is it running with -Y {options.run_dir}?): {ctl.socket()}",
                     EXIT_NO_SERVER)  # fmt: skip
    except PermissionError as exc:
        return _fail(f"permission denied (try as the server's user): {exc.filename or ctl.socket()}", EXIT_FAILED)
    except ConfigError as exc:
        return _fail(str(exc), EXIT_USAGE)
    except (UsageError, BackendError) as exc:
        return _fail(str(exc), EXIT_FAILED)
    except SerpyError as exc:  # pragma: no cover - ScriptErrors and the like print themselves
        return _fail(str(exc), EXIT_USAGE)
    except KeyboardInterrupt:
        return 130
    return 0


def _fail(text: str, status: int) -> int:
    say(f"ERROR: {text}", sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
