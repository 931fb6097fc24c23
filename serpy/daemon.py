"""The command ``serpy``: options, pid file, going into the background, exit codes.

Exit codes: 0 success (also ``-c``, ``-V``, ``-h`` and an orderly stop), 2 bad options or configuration, 3 a process could
not start. When going into the background the starter waits on a pipe and exits 0 only when all processes are ready.

Runs in: the starter, then the master. Locks: none.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import logging
import os
import pwd
import resource
import signal
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from serpy import __version__
from serpy import log as serpy_log
from serpy.api import Server
from serpy.config import Settings
from serpy.errors import ConfigError, SerpyError
from serpy.loader import load, parse_define
from serpy.master import Master
from serpy.net.handoff import Channels, Layout
from serpy.net.listen import Bound, bind_all
from serpy.run_dir import make_folder
from serpy.workers.base import EXIT_BOOT, Worker, limit_core_files
from serpy.workers.ctl import CtlWorker
from serpy.workers.store import StoreWorker
from serpy.workers.tcp import TcpWorker
from serpy.workers.timer import TimerWorker
from serpy.workers.udp import UdpWorker

log = logging.getLogger(__name__)

DEFAULT_FILE: Final = "/etc/serpy/serpy.conf"
DEFAULT_RUN_DIR: Final = "/run/serpy"
EXIT_CONFIG: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.version:
        print(f"serpy {__version__} (Python {sys.version.split()[0]})")
        return 0
    serpy_log.set_up(options.debug, stderr=True)
    try:
        settings, defines = _settings_of(options)
        server = load(options.file, defines, settings, run_dir=options.run_dir, check_only=options.check)
        for warning in getattr(server.program, "warnings", ()):
            log.warning("%s", warning)
        if options.check:
            print("config file ok, exiting", file=sys.stderr)
            return 0
        return _start(server, options)
    except ConfigError as exc:
        print(f"serpy: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    except (SerpyError, OSError) as exc:
        print(f"serpy: cannot start: {exc}", file=sys.stderr)
        return EXIT_BOOT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serpy", description="SIP proxy and registrar", add_help=False, allow_abbrev=False,
        epilog="Options win over what the file says. See serpy(8).",
    )  # fmt: skip
    add = parser.add_argument
    add("-h", "--help", action="help", help="show this and exit")
    add("-V", "--version", dest="version", action="store_true", help="show the version and exit")
    add("-f", dest="file", default=DEFAULT_FILE, metavar="FILE", help=f"configuration file (default {DEFAULT_FILE})")
    add("-c", "--check-config", dest="check", action="store_true", help="check the file and exit")
    add("-Y", dest="run_dir", default=DEFAULT_RUN_DIR, metavar="DIR",
        help=f"run directory: ctl socket, secrets (default {DEFAULT_RUN_DIR})")  # fmt: skip
    add("-A", dest="define", action="append", default=[], metavar="NAME[=VALUE]", help="define for the preprocessor")
    add("-l", dest="listen", action="append", default=[], metavar="ADDRESS",
        help="[proto:]host[:port] to listen on, repeatable (default: all interfaces)")  # fmt: skip
    add("-n", dest="children", type=int, metavar="N", help="receiver processes")
    add("-N", dest="tcp_children", type=int, metavar="N", help="TCP processes (default: as -n)")
    add("-m", dest="shm_mem", type=int, metavar="MIB", help="shared memory in MiB")
    add("-D", dest="foreground", action="count", default=0,
        help="stay in the foreground, once: with one receiver, twice: with all; three times: go to the background")  # fmt: skip
    add("-E", dest="stderr", action="store_true", help="log to standard error")
    add("-d", dest="debug", action="count", default=0, help="log more, repeatable")
    add("-P", dest="pid_file", default="", metavar="FILE", help="write the master's process id to FILE")
    add("-G", dest="group_file", default="", metavar="FILE", help="write the process group to FILE")
    add("-u", dest="user", metavar="USER", help="user to become")
    add("-g", dest="group", metavar="GROUP", help="group to become")
    add("-w", dest="workdir", metavar="DIR", help="working directory (default /, in the foreground the current one)")
    add("-t", dest="chroot", metavar="DIR", help="lock the server into DIR")
    add("-b", dest="receive_buffer", type=int, metavar="BYTES", help="UDP receive buffer (default 1048576)")
    add("-r", dest="dns", action="store_true", help="use DNS for received=")
    add("-R", dest="rev_dns", action="store_true", help="use reverse DNS for received=")
    add("-v", dest="check_via", action="store_true", help="forward only replies whose top Via names us")
    add("-a", dest="auto_aliases", choices=("on", "off"), metavar="on|off", help="names of our addresses are ourselves")
    add("-T", dest="disable_tcp", action="store_true", help="no TCP")
    for letter, name in (("L", "PATH"), ("W", "TYPE"), ("O", "LEVEL"), ("Q", "N"), ("s", "FILE"), ("M", "MIB")):
        add(f"-{letter}", dest=f"unused_{letter}", metavar=name, help="accepted, no effect")
    add("-S", dest="unused_S", action="store_true", help="accepted, no effect")
    return parser


def _settings_of(options: argparse.Namespace) -> tuple[Settings, dict[str, str]]:
    """What the command line says, which the file cannot change, and the defines."""
    settings = Settings()
    defines = dict(parse_define(text) for text in options.define)
    for name in ("children", "tcp_children", "shm_mem", "user", "group", "workdir", "chroot"):
        value = getattr(options, name)
        if value is not None:
            settings.assign(name, value, command_line=True)
    for name in ("dns", "rev_dns", "check_via", "disable_tcp"):
        if getattr(options, name):
            settings.assign(name, 1, command_line=True)
    if options.auto_aliases:
        settings.assign("auto_aliases", options.auto_aliases, command_line=True)
    if options.receive_buffer:
        settings.assign("udp_receive_buffer", options.receive_buffer, command_line=True)
    if options.stderr:
        settings.assign("log_stderror", 1, command_line=True)
    for address in options.listen:
        settings.assign("listen", address, command_line=True)
    if options.foreground == 1:
        # "Do not fork at all" of the original: here one receiver and the helpers, all in the foreground.
        settings.assign("fork", 0, command_line=True)
        settings.assign("children", 1, command_line=True)
    return settings, defines


def _start(server: Server, options: argparse.Namespace) -> int:
    settings = server.settings
    if not settings.fork:
        settings.children = 1
    debug = settings.debug + options.debug
    background = options.foreground not in (1, 2) and bool(settings.fork)
    uid, gid = _identity(settings)
    _check_pid_file(options.pid_file)
    _set_limits(settings)
    bound = bind_all(server.listeners, settings.children, settings)
    _prepare_run_dir(server.run_dir, uid, gid)
    _tell_programs(server.run_dir)
    reporter = Reporter(_go_to_background() if background else None)
    if settings.chroot:
        os.chroot(settings.chroot)
    if settings.workdir or background:
        os.chdir(settings.workdir or "/")
    serpy_log.set_up(
        debug, stderr=bool(settings.log_stderror), facility=settings.log_facility, name=settings.log_name or "serpy",
        socket_path=settings.log_socket,
    )  # fmt: skip
    serpy_log.guard_stderr()
    lost = server.counters.declare("core.log_lost", "log records that could not be written")
    serpy_log.count_losses(lambda: server.counters.add(lost))
    pid_files = [name for name in (options.pid_file, options.group_file) if name]
    try:
        for name in pid_files:
            Path(name).write_text(f"{os.getpid() if name == options.pid_file else os.getpgrp()}\n", encoding="ascii")
        workers = _workers(server, bound)
        master = Master(server, workers, uid=uid, gid=gid, on_ready=lambda: reporter.tell(0))
        code = master.run()
        if code and master.boot_error:
            print(f"serpy: cannot start: {master.boot_error}", file=sys.stderr)
        reporter.tell(code, master.boot_error)
    except (SerpyError, OSError) as exc:
        reporter.tell(EXIT_BOOT, str(exc))
        raise
    finally:
        for name in pid_files:
            with contextlib.suppress(OSError):
                Path(name).unlink()
    return code


def _workers(server: Server, bound: Bound) -> list[Worker]:
    """Every child of this server, in the order of its slot."""
    layout = Layout(bound.children, bound.streams)
    channels = Channels(layout.slots, layout)
    dropped = server.counters.declare("core.handoff_dropped", "messages between processes that found no room")
    channels.count_drops(lambda: server.counters.add(dropped))
    workers: list[Worker] = [UdpWorker(server, channels, bound, child, child) for child in range(layout.receivers)]
    workers.append(TimerWorker(server, channels, bound, layout.timer, 0))
    workers.append(StoreWorker(server, channels, bound, layout.store, 0))
    workers.append(CtlWorker(server, channels, bound, layout.ctl, 0))
    workers.extend(
        TcpWorker(server, channels, bound, layout.first_stream + child, child) for child in range(layout.streams)
    )
    return workers


def _identity(settings: Settings) -> tuple[int, int]:
    """(uid, gid) to become, -1 to stay. Raises ConfigError for unknown names, and when we may not."""
    uid = gid = -1
    if settings.user:
        try:
            entry = pwd.getpwuid(int(settings.user)) if settings.user.isdecimal() else pwd.getpwnam(settings.user)
        except KeyError:
            raise ConfigError(f"there is no user {settings.user!r}") from None
        uid, gid = entry.pw_uid, entry.pw_gid
    if settings.group:
        try:
            gid = int(settings.group) if settings.group.isdecimal() else grp.getgrnam(settings.group).gr_gid
        except KeyError:
            raise ConfigError(f"there is no group {settings.group!r}") from None
    if os.geteuid() != 0 and ((uid >= 0 and uid != os.getuid()) or (gid >= 0 and gid != os.getgid())):
        raise ConfigError("only root may change to another user or group", hint="start as root, or leave out -u and -g")
    return uid, gid


def _check_pid_file(name: str) -> None:
    """Refuse to start beside the process that *name* tells of; a stale one only earns a warning."""
    if not name or not Path(name).exists():
        return
    text = Path(name).read_text(encoding="ascii", errors="replace").strip(" \t\r\n")
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10):
        raise ConfigError(f"pid file {name} does not hold a process id", hint="remove it if no server is running")
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        log.warning("pid file %s is stale (pid %s is gone): replaced", name, text)
    except PermissionError:
        raise ConfigError(f"already running as pid {text} (pid file {name})") from None
    else:
        raise ConfigError(f"already running as pid {text} (pid file {name})")


def _set_limits(settings: Settings) -> None:
    if settings.disable_core:
        limit_core_files()
    if settings.open_files_limit > 0:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = settings.open_files_limit
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (OSError, ValueError) as exc:
            log.warning("open_files_limit stays at %d: %s", soft, exc)
    if settings.real_time & 4:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(max(1, settings.rt_prio)))
        except OSError as exc:
            log.warning("no real-time scheduling: %s", exc)


def _prepare_run_dir(run_dir: str, uid: int, gid: int) -> None:
    """Make the run directory and, as root, give it to whom the children become."""
    make_folder(run_dir)
    if uid >= 0 or gid >= 0:
        os.chown(run_dir, uid, gid)


def _tell_programs(run_dir: str) -> None:
    """Let programs that a script starts find this server's socket, and its own sercmd and serpyctl first."""
    if run_dir:
        os.environ["SERPY_CTL"] = f"unixs:{os.path.abspath(run_dir)}/ctl"  # noqa: PTH100 - text in, text out
    ours = sysconfig.get_path("scripts")
    path = os.environ.get("PATH", os.defpath)
    if ours not in path.split(os.pathsep):
        os.environ["PATH"] = f"{ours}{os.pathsep}{path}"


def _go_to_background() -> int:
    """Leave the terminal; the starter waits for the Reporter and exits with its code. Returns the fd to tell on."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        answer = os.read(reader, 4096)  # one write; the end of the file would also wait for all children
        if not answer:
            print("serpy: the master died while starting", file=sys.stderr)
            os._exit(EXIT_BOOT)
        if answer[0]:
            print(f"serpy: cannot start: {answer[1:].decode('utf-8', 'replace')}", file=sys.stderr)
            sys.stderr.flush()
        os._exit(answer[0])
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.set_inheritable(writer, False)
    return writer


class Reporter:
    """Tells the starter how it went; only the first time counts. *fd* is None in the foreground: nobody waits."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def tell(self, code: int, text: str = "") -> None:
        """Have the starter exit with *code*, after printing *text*."""
        if self._fd is None:
            return
        with contextlib.suppress(OSError):
            os.write(self._fd, bytes((code,)) + text.encode("utf-8", "replace")[:4000])
        os.close(self._fd)
        self._fd = None


if __name__ == "__main__":
    sys.exit(main())
