"""From a configuration file to a Server: compile the script, set the core parameters, load and initialise the modules.

Nothing is opened here: no socket, no database. ``check()`` goes the same way as far as possible without touching the
machine. All errors that can be found in one go are reported in one ``ConfigError``.

Runs in: master before the first fork; serpyctl. Locks: none.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import pkgutil
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import serpy.modules
from serpy.api import BUDGETS, CHARGES, Server
from serpy.config import KINDS, Settings
from serpy.db.interface import parse_url
from serpy.errors import BackendError, ConfigError, SerpyError, UsageError
from serpy.net import waiters
from serpy.net.guard import COUNTER as HELD_BACK
from serpy.net.handoff import Layout
from serpy.net.listen import aliases_of, listeners_of, stream_children
from serpy.net.nameservers import servers_of
from serpy.net.streams import COUNTERS
from serpy.run_dir import check_folder, check_secrets, make_folder
from serpy.script.compile import compile_script
from serpy.script.environment import Environment, base_name
from serpy.script.exports import Exports
from serpy.script.hooks import Hooks
from serpy.script.networks import Networks, parse_network
from serpy.shm.counters import Counters
from serpy.shm.kept import Kept
from serpy.shm.segment import Segment
from serpy.shm.variables import Variables
from serpy.trust.budgets import Budgets
from serpy.trust.charges import Charges
from serpy.trust.counters import declare_counters
from serpy.trust.limits import Limits
from serpy.trust.standing import MODES

if TYPE_CHECKING:
    from serpy.db.interface import Database
    from serpy.script.compile import Program

log = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
SECRETS: Final = ("AUTH_SECRET", "COOKIE_SECRET", "REPLICATION_SECRET")
SECRETS_FILE: Final = "secrets"
DRIVERS: Final = {
    "sqlite": "db_sqlite", "postgres": "db_postgres", "postgresql": "db_postgres", "mysql": "db_mysql", "mariadb": "db_mysql",
}  # fmt: skip
WRITING_ROLES: Final = ("store", "ctl")
URL_MODULES: Final = ("usrloc", "auth_db", "domain", "uri_db", "avp_db", "gflags")


def load(
    path: str,
    defines: Mapping[str, str],
    settings: Settings | None = None,
    *,
    run_dir: str = "",
    check_only: bool = False,
) -> Server:
    """The Server that the file *path* describes, ready for the fork; *settings* holds what the command line has set.

    Without *run_dir*, or with *check_only*, no secret is read or made. Raises ConfigError, ResourceError.
    """
    settings = settings or Settings()
    all_defines = {**_secrets(run_dir if not check_only else ""), **defines}
    environment = Environment(load_module, KINDS, modules_with=modules_with)
    program = _compile(path, all_defines, environment)
    _assign(settings, program)
    servers_of(settings)  # refuse what no child could use
    server = Server(settings)
    server.run_dir = "" if check_only else run_dir  # a check leaves nothing there
    server.secret = all_defines["COOKIE_SECRET"].encode("utf-8", "surrogateescape")
    server.program = program
    for exports in program.modules:
        server.exports[exports.name] = exports
    server.listeners = listeners_of(settings)
    _replicate(server, all_defines["REPLICATION_SECRET"])
    server.aliases = aliases_of(settings, server.listeners)
    server.open_database = _Databases(server, check_only=check_only).open
    _make_shared(server, environment)
    _budget(server, run_dir if not check_only else "")
    _lend(server, program.hooks)
    if not check_only:
        _require_files(server)
    else:
        logging.disable(logging.WARNING)  # that no database can be asked is no news here
    try:
        _initialise(server)
    finally:
        logging.disable(logging.NOTSET)
    return server


def check(path: str, defines: Mapping[str, str]) -> list[str]:
    """Raise ConfigError with everything that is wrong with the file *path*; nothing is applied.

    Returns place, engine and text of each regular expression in it.
    """
    program = load(path, defines, check_only=True).program
    return list(getattr(program, "expressions", ()))


def parse_define(text: str) -> tuple[str, str]:
    """``NAME=value`` or ``NAME`` (value empty). Raises ConfigError."""
    name, _, value = text.partition("=")
    if not (name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()):
        raise ConfigError(f"bad define {text[:60]!r}", hint="-A NAME or -A NAME=value")
    return name, value


def database_url(path: str, defines: Mapping[str, str]) -> str:
    """The database that the file *path* names: the ``db_url`` of the location table, else of another module."""
    program = _compile(path, {**_secrets(""), **defines}, Environment(load_module, KINDS, modules_with=modules_with))
    modules = {exports.name: exports for exports in program.modules}
    for name in URL_MODULES:
        url = modules[name].parameter("db_url") if name in modules else ""
        if url:
            return str(url)
    raise ConfigError(f"{path} names no database", hint='modparam("usrloc", "db_url", …)')


def open_database(url: str, *, create: bool = False) -> Database:
    """A handle of our own for *url*, to read and write. Raises ConfigError, BackendError."""
    return cast("Database", _opener(url, {})(url, read_only=False, create=create))


def load_module(name: str) -> Exports:
    """A fresh instance of the module *name*; ``.so`` and a path are forgiven. Raises ConfigError for an unknown one."""
    base = base_name(name)
    known = module_names()
    if base not in known:
        close = difflib.get_close_matches(base, known, 1)
        raise ConfigError(
            f"no module {base!r}", hint=f'did you mean "{close[0]}"?' if close else "serpy-modules(7) lists them"
        )
    try:
        module = importlib.import_module(f"serpy.modules.{base}")
    except ImportError as exc:
        raise ConfigError(f"module {base} cannot be loaded: {exc}") from None
    exports: Exports = module.exports()
    return exports


def module_names() -> list[str]:
    """All modules there are."""
    return [item.name for item in pkgutil.iter_modules(serpy.modules.__path__)]


def modules_with(function: str) -> list[str]:
    """The modules that have a script function of this name; it looks at all, so it is for error texts."""
    found: list[str] = []
    for name in module_names():
        try:
            exports = load_module(name)
        except ConfigError:
            continue  # it needs what is not installed here
        if any(known.name == function for known in exports.functions):
            found.append(name)
    return found


def _compile(path: str, defines: dict[str, str], environment: Environment) -> Program:
    if not Path(path).is_file():
        raise ConfigError(f"cannot read {path}: no such file", hint="name it with -f FILE")
    try:
        return compile_script(path, defines, environment)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from None


def _replicate(server: Server, secret: str) -> None:
    """Who listens on a group replicates: load the module that does when the file does not, as the published ones."""
    if "replication" not in server.exports and any(listener.multicast for listener in server.listeners):
        server.exports["replication"] = load_module("replication")
    for exports in server.exports.values():
        if exports.take_secret is not None:
            exports.take_secret(secret)


def _assign(settings: Settings, program: Program) -> None:
    errors: list[str] = []
    for item in program.settings:
        values = item.value if isinstance(item.value, list) else [item.value]
        for value in values:
            try:
                settings.assign(item.name, value)
            except ConfigError as exc:
                located = ConfigError(exc.message, file=item.file, line=item.line, column=item.column, hint=exc.hint)
                errors.append(str(located))
    if errors:
        raise ConfigError("\n".join(errors))


def _make_shared(server: Server, environment: Environment) -> None:
    """Shared memory and all that lives in it from the core; the modules allocate the rest in ``init``."""
    settings = server.settings
    server.segment = Segment(settings.shm_mem * MIB)
    streams = stream_children(server.listeners, settings)
    server.counters = Counters(server.segment, Layout(settings.children, streams).slots)
    for name, text in waiters.COUNTERS:
        server.counters.declare(name, text)
    if streams:
        for name, text in COUNTERS:
            server.counters.declare(name, text)
    server.counters.declare(*HELD_BACK)
    variables = Variables()
    for exports in server.exports.values():
        for group, names in exports.variables.items():
            for name, (kind, default, text) in names.items():
                variables.declare(group, name, kind, default, text)
    for group, values in environment.variables.items():
        for name, value in values.items():
            if not variables.knows(group, name):
                variables.declare(group, name, "int" if isinstance(value, int) else "str", value)
    variables.place(server.segment, server.counters)
    server.variables = variables


def _budget(server: Server, run_dir: str) -> None:
    """What strangers may cost, in a memory that outlives this server."""
    settings = server.settings
    limits = Limits(settings.trust_size)
    kept = Kept(run_dir, "budgets", f"serpy budgets 3 {limits.size}", Budgets.size(limits))
    trusted = [parse_network(word) for text in settings.trusted for word in text.replace(",", " ").split()]
    budgets = Budgets(
        kept.memory, limits, secrets.randbits(63), mode=MODES.index(settings.trust_mode),
        is_trusted=Networks(trusted).holds if trusted else None,
    )  # fmt: skip
    declare_counters(server.counters)
    charges = Charges(budgets, settings.children)
    server.provide(BUDGETS, budgets)
    server.provide(CHARGES, charges)
    server.hooks.on_credentials.append(charges.credentials)
    server.hooks.on_refused.append(charges.refused)


def _require_files(server: Server) -> None:
    """A database server that is down comes back; a file that is missing does not. Raises ConfigError."""
    for exports in server.exports.values():
        url = exports.parameter("db_url")
        if isinstance(url, str) and url.startswith("sqlite:") and not Path(parse_url(url).path).is_file():
            raise ConfigError(
                f"there is no database {parse_url(url).path}",
                hint="make it with the same options: serpyctl -f FILE -A DB_URL=… db create",
            )


def _initialise(server: Server) -> None:
    errors: list[str] = []
    for exports in server.exports.values():
        if exports.init is None:
            continue
        try:
            exports.init(server)
        except SerpyError as exc:
            errors.append(f"module {exports.name}: {exc}")
    if errors:
        raise ConfigError("\n".join(errors))
    if server.has_databases:
        # All children would share it over the fork, and no kind of handle survives that. open_database() and close.
        raise UsageError("a module keeps a database handle in the master")


def _lend(server: Server, hooks: Hooks) -> None:
    """What the core lends to the program."""
    hosts = {listener.host for listener in server.listeners}
    hooks.is_myself = server.is_myself
    hooks.is_my_address = lambda host: host.strip("[]") in hosts
    hooks.find_listener = server.listener_for
    hooks.server_id = lambda: server.settings.server_id
    hooks.cfg_get = server.variables.get
    hooks.max_while_loops = server.settings.max_while_loops


class _Databases:
    """Opens database handles for one Server, by the scheme of their URL."""

    def __init__(self, server: Server, *, check_only: bool) -> None:
        self._server: Final = server
        self._check_only: Final = check_only

    def open(self, url: str) -> Database:
        """A fresh handle: only the store and ctl write. A module that opens one in the master closes it in ``init``. Raises ConfigError, BackendError.

        In the master it blocks, and whoever opened it closes it before the fork: no kind of handle survives that.
        """
        server = self._server
        opener = _opener(url, server.exports)
        if self._check_only:
            raise BackendError("no database is opened while checking")
        if server.slot < 0:
            return cast("Database", opener(url, read_only=True))
        return cast("Database", opener(url, read_only=server.role not in WRITING_ROLES, loop=server.loop))


def _opener(url: str, loaded: Mapping[str, Exports]) -> Callable[..., object]:
    """What opens *url*: of a driver that is loaded, with its parameters set, else of a fresh one. Raises ConfigError."""
    scheme = url.partition(":")[0].lower()
    for exports in loaded.values():
        if exports.open_database is not None and scheme in exports.schemes:
            return exports.open_database
    name = DRIVERS.get(scheme)
    if name is None:
        raise ConfigError(
            f"no database driver for {scheme!r:.40} URLs", hint="sqlite:////path, postgres://… or mysql://…"
        )
    opener = load_module(name).open_database
    assert opener is not None, name
    return opener


def make_run_dir(run_dir: str) -> None:
    """Make *run_dir* when it is missing, else look whether it is ours alone. Raises ConfigError."""
    try:
        make_folder(run_dir)
        check_folder(run_dir)
    except OSError as exc:
        raise ConfigError(f"cannot use {run_dir}: {exc}", hint="choose another run directory with -Y") from None


def _secrets(run_dir: str) -> dict[str, str]:
    """The secrets of this server, made at the first start and kept in *run_dir*; "" gives throw-away ones."""
    found = {name: secrets.token_hex(24) for name in SECRETS}
    if not run_dir:
        return found
    path = Path(run_dir, SECRETS_FILE)
    make_run_dir(run_dir)
    try:
        if path.exists():
            check_secrets(path)
            kept: set[str] = set()
            for line in path.read_text(encoding="ascii").split("\n"):
                name, equals, value = line.partition("=")
                if equals and name in found:
                    found[name] = value
                    kept.add(name)
            missing = [name for name in SECRETS if name not in kept]
            if missing:  # the file is of an earlier version
                with path.open("a", encoding="ascii") as file:
                    file.writelines(f"{name}={found[name]}\n" for name in missing)
            return found
        # Written aside and linked into place: a second start at the same time sees all or nothing.
        draft = path.with_name(f"{SECRETS_FILE}.{os.getpid()}")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "w", encoding="ascii") as file:  # noqa: PTH123 - an fd, not a path
            file.writelines(f"{name}={value}\n" for name, value in found.items())
        draft.rename(path)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"cannot keep secrets in {path}: {exc}", hint="choose another run directory with -Y"
        ) from None
    return found
