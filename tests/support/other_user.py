"""A server of an unprivileged user of its own, which the limit on processes (RLIMIT_NPROC) holds for: not for root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

UID = 54321  # nobody's


def as_other_user(command: list[str]) -> list[str]:
    """*command*, run by that user when we are root."""
    if os.geteuid():
        return command
    return ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", *command]


def can_be_other_user(*command: str) -> bool:
    """True when that user may run *command*."""
    if shutil.which("prlimit") is None or (os.geteuid() == 0 and shutil.which("setpriv") is None):
        return False
    return subprocess.run(as_other_user(list(command)), capture_output=True, check=False, timeout=30).returncode == 0


def give_to_other_user(folder: Path) -> None:
    """Let that user live in *folder*."""
    if os.geteuid():
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, UID, UID)


def allow_forks(pid: int, allowed: bool) -> None:
    """Whether the process *pid* may fork: by its soft limit of processes, which 1 has reached already."""
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
    hard = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max processes"))
    command = ["prlimit", "--pid", str(pid), f"--nproc={hard if allowed else 1}:{hard}"]
    subprocess.run(as_other_user(command), check=True, timeout=30)
