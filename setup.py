"""Build serpy: the hot packages compile with mypyc where a C compiler is present, else they stay Python.

``SERPY_PURE=1`` forces pure Python. A failed compilation is reported and never fatal: the same files run uncompiled.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
COLD = "cold.h"  # what reports errors is put apart from what runs: a message passes through a quarter less code

# One mypyc group: calls between these files are direct C calls. Everything else stays interpreted.
HOT = [
    "serpy/errors.py",
    "serpy/context/*.py",
    "serpy/sip/abnf.py",
    "serpy/sip/address.py",
    "serpy/sip/authorization.py",
    "serpy/sip/classes.py",
    "serpy/sip/contact.py",
    "serpy/sip/cseq.py",
    "serpy/sip/date.py",
    "serpy/sip/digest.py",
    "serpy/sip/equality.py",
    "serpy/sip/flow.py",
    "serpy/sip/framing.py",
    "serpy/sip/heads.py",
    "serpy/sip/host.py",
    "serpy/sip/limits.py",
    "serpy/sip/lines.py",
    "serpy/sip/message.py",
    "serpy/sip/nameaddr.py",
    "serpy/sip/native.py",
    "serpy/sip/parser.py",
    "serpy/sip/plain.py",
    "serpy/sip/reach.py",
    "serpy/sip/received.py",
    "serpy/sip/sdp.py",
    "serpy/sip/status.py",
    "serpy/sip/stun.py",
    "serpy/sip/text.py",
    "serpy/sip/uri.py",
    "serpy/sip/via.py",
    "serpy/sip/writer.py",
    "serpy/transaction/*.py",
    "serpy/trust/budgets.py",  # not people.py: RPCs are called by their signature
    "serpy/trust/charges.py",
    "serpy/trust/counters.py",
    "serpy/trust/limits.py",
    "serpy/trust/look.py",
    "serpy/trust/places.py",
    "serpy/trust/standing.py",
    "serpy/script/attribute_rows.py",
    "serpy/script/builtins.py",
    "serpy/script/formats.py",
    "serpy/script/hooks.py",
    "serpy/limited_log.py",
    "serpy/script/networks.py",
    "serpy/script/operands.py",
    "serpy/script/patterns.py",
    "serpy/script/program.py",
    "serpy/script/runtime.py",
    "serpy/script/scalars.py",
    "serpy/script/selects.py",
    "serpy/script/unique.py",
    "serpy/shm/*.py",
    "serpy/net/guard.py",
    "serpy/net/handoff.py",
    "serpy/net/loop.py",
    "serpy/net/sender.py",
    "serpy/net/steering.py",
    "serpy/net/streams.py",
    "serpy/net/udp.py",
    "serpy/net/waiters.py",
    "serpy/db/cache.py",
    "serpy/db/coalesce.py",
    "serpy/db/frames.py",
    "serpy/db/lane.py",
    "serpy/db/pending.py",
    "serpy/db/schema.py",
    "serpy/db/snapshot.py",
    "serpy/db/sql.py",
    "serpy/db/store.py",
    "serpy/db/sweep.py",
    "serpy/db/writer.py",
    "serpy/api.py",
    "serpy/call_order.py",
    "serpy/clock.py",
    "serpy/pipeline.py",
    "serpy/modules/acc_db/*.py",
    "serpy/rtp/bencode.py",
    "serpy/rtp/flags.py",
    "serpy/rtp/functions.py",
    "serpy/rtp/link.py",
    "serpy/rtp/ng.py",
    "serpy/rtp/nodes.py",
    "serpy/rtp/relay.py",
    "serpy/rtp/rtpproxy.py",
    "serpy/rtp/session.py",
    "serpy/modules/auth/*.py",
    "serpy/modules/auth_db/*.py",
    "serpy/modules/avp_db.py",
    "serpy/modules/db_postgres/statements.py",
    "serpy/modules/domain.py",
    "serpy/modules/eval/*.py",
    "serpy/modules/gflags/global_list.py",
    "serpy/modules/maxfwd.py",
    "serpy/modules/nathelper/keepalive.py",
    "serpy/modules/nathelper/nat.py",
    "serpy/modules/registrar/*.py",
    "serpy/modules/rr/__init__.py",  # not rpc.py: RPCs are called by their signature
    "serpy/modules/rr/answers.py",
    "serpy/modules/rr/cookie.py",
    "serpy/modules/rr/dialogs.py",
    "serpy/modules/rr/loose.py",
    "serpy/modules/rr/memory.py",
    "serpy/modules/rr/own.py",
    "serpy/modules/rr/reading.py",
    "serpy/modules/rr/rule.py",
    "serpy/modules/rr/sides.py",
    "serpy/modules/rr/state.py",
    "serpy/modules/sl.py",
    "serpy/modules/speeddial.py",
    "serpy/modules/textops/*.py",
    "serpy/modules/tm/functions.py",  # not rpc.py: RPCs are called by their signature
    "serpy/modules/tm/routes.py",
    "serpy/modules/uri_db.py",
    "serpy/modules/usrloc/location.py",  # not rpc.py: RPCs are called by their signature
    "serpy/modules/usrloc/preload.py",
    "serpy/modules/usrloc/purge.py",
    "serpy/modules/usrloc/storage.py",
]

# Written in C; where it does not compile, a Python twin does the same.
NATIVE = {"serpy.net._udp": "serpy/net/_udp.c", "serpy.sip._head": "serpy/sip/_head.c"}
STRICT = ["-O2", "-g0", "-Wall", "-Wextra"]  # a test compiles with more of them, as errors


def hot_files() -> list[str]:
    found = {str(path.relative_to(HERE)) for pattern in HOT for path in HERE.glob(pattern)}
    return sorted(name for name in found if (HERE / name).stat().st_size > 0)


def say(text: str) -> None:
    sys.stderr.write(f"serpy: {text}\n")


def extensions() -> list:
    building = any(word in sys.argv for word in ("bdist_wheel", "build", "build_ext", "install", "editable_wheel"))
    if not building:
        return []
    if os.environ.get("SERPY_PURE") == "1":
        say("SERPY_PURE=1: installing pure Python, nothing is compiled")
        return []
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc").split()[0], "gcc", "clang")):
        say("no C compiler found: installing pure Python (slower, otherwise the same). apt-get install gcc python3-dev")
        return []
    try:
        from mypyc.build import mypycify  # noqa: PLC0415 - only when compiling
    except ImportError as exc:
        say(f"mypyc is missing ({exc}): installing pure Python")
        return []
    try:
        os.chdir(HERE)
        found = mypycify(hot_files(), opt_level=os.environ.get("SERPY_OPT", "2"), debug_level="0", multi_file=True)
    except SystemExit as exc:
        say(f"mypyc refused the sources (status {exc.code}): installing pure Python")
        return []
    for extension in found:
        extension.extra_compile_args += ["-include", COLD]
    return [*found, *(Extension(name, [source], extra_compile_args=STRICT) for name, source in NATIVE.items())]


class OptionalBuildExt(build_ext):
    """Compile with all cores, and fall back to pure Python as a whole when anything fails."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as exc:  # noqa: BLE001 - whatever the C compiler or linker did, pure Python still works
            say(f"compilation failed ({exc}): installing pure Python")
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []

    def build_extension(self, ext) -> None:
        compile_one = self.compiler.compile

        def compile_parallel(sources, *args, **kwargs):
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only when compiling

            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                parts = pool.map(lambda source: compile_one([source], *args, **kwargs), sources)
                return [name for part in parts for name in part]

        self.compiler.compile = compile_parallel
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_one


version = re.search(r'__version__ = "([^"]+)"', (HERE / "serpy/__init__.py").read_text())
setup(
    version=version.group(1) if version else "0",
    packages=find_packages(include=["serpy", "serpy.*"]),
    package_data={"serpy.script": ["*.lark"]},
    exclude_package_data={"serpy.net": ["*.c"], "serpy.sip": ["*.c"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": OptionalBuildExt},
)
