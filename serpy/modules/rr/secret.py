"""The secret of the dialog cookies: given, kept in a file, or new at each start.

Runs in: master. Locks: none; of two servers that make the file at once the second reads what the first has written.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Final

from serpy.errors import ConfigError
from serpy.run_dir import check_secrets

log = logging.getLogger(__name__)

_SIZE: Final = 32
_MOST: Final = 4096  # bytes that are read of a file


def secret_of(given: str, file: str, run_dir: str) -> bytes:
    """*given*, else what is in *file* or ``rr.secret`` of *run_dir*, made when missing. Nowhere to keep it: a new one.

    Raises ConfigError when *file* cannot be used, or what is kept may be another's.
    """
    if given:
        return given.encode("utf-8", "surrogateescape")
    path = file or (str(Path(run_dir) / "rr.secret") if run_dir else "")
    if not path:
        return secrets.token_bytes(_SIZE)
    try:
        return _read_or_create(path)
    except OSError as exc:
        if file:
            raise ConfigError(f"rr: cookie_secret_file {path}: {exc.strerror}") from exc
        log.warning("rr: cannot keep a secret in %s (%s): dialog cookies end with this process", path, exc.strerror)
        return secrets.token_bytes(_SIZE)


def _read_or_create(path: str) -> bytes:
    """The bytes of *path*; random ones are written first when it does not exist."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        check_secrets(path)
        found = Path(path).read_bytes()[:_MOST].strip(b" \t\r\n")
        if not found:
            raise OSError(0, "the file is empty", path) from None
        return found
    with os.fdopen(handle, "wb") as opened:
        text = secrets.token_hex(_SIZE).encode("ascii")
        opened.write(text + b"\n")
    return text
