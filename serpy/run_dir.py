"""The run directory: made so that no other user can put files there, and looked at before its secrets are believed.

Who may write to it could replace ``ctl`` by a socket of their own, or ``secrets`` by a file whose nonces and cookies they
can forge. A folder that was here before stays as it is: what is wrong with it is said, and what cannot be trusted refused.

Runs in: master before the first fork; serpyctl, quickstart. Locks: none.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

from serpy.errors import ConfigError

log = logging.getLogger(__name__)

OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
OTHERS_READ: Final = stat.S_IRGRP | stat.S_IROTH


def make_folder(path: str | Path, mode: int = 0o755) -> None:
    """Make the folder *path* and those above it that are missing, with *mode* at most, whatever the umask."""
    mask = os.umask(0o777)
    os.umask(mask | (~mode & 0o777))
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    finally:
        os.umask(mask)


def check_folder(path: str | Path) -> None:
    """Warn when others may put files into the run directory *path*. Raises ConfigError when everybody may."""
    state = Path(path).stat()
    mode = stat.S_IMODE(state.st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"anybody may write to the run directory {path} (mode {mode:04o}): its ctl socket and secrets could be another's",
            hint=f"chmod go-w {path}, or choose another one with -Y",
        )
    if mode & OTHERS_WRITE:
        log.warning("others may write to the run directory %s (mode %04o): chmod go-w %s", path, mode, path)


def check_secrets(path: str | Path) -> None:
    """Warn when others may read the secrets file *path*. Raises ConfigError when it may be another's."""
    state = Path(path).stat()
    mode = stat.S_IMODE(state.st_mode)
    owners = (0, os.geteuid(), Path(path).parent.stat().st_uid)
    if state.st_uid not in owners or mode & OTHERS_WRITE:
        raise ConfigError(
            f"the secrets in {path} may be another's: owner {state.st_uid}, mode {mode:04o}",
            hint="remove the file, so that new ones are made; phones and calls then authenticate once more",
        )
    if mode & OTHERS_READ:
        log.warning(
            "others may read the secrets in %s (mode %04o): remove the file, so that new ones are made", path, mode
        )
