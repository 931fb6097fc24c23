"""A hundred dialogs of all kinds, a receiver killed and the server restarted in their middle, forgers around them.

usage: bench/dialogs.py [--dialogs 100] [--forged 500] [--seed N]

Every request of the right parties has to arrive, and none of the forged ones: right Call-ID with wrong tags, another target,
another source, another method, the cookie of another dialog, another way, no cookie, none of a dialog. Exit status 0 when
that is so. Run it with the Python that serpy is installed for.

Runs in: bench only.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.dialogs import Town, prepare
from support.patience import wait_for
from support.running import Running


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def kill_a_receiver(running: Running) -> None:
    """SIGKILL for the first receiver; its successor has to serve."""
    title, pid = next((title, pid) for title, pid in running.children().items() if "udp receiver child=0" in title)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: running.children().get(title, pid) != pid)
    wait_for(running.is_answering)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dialogs", type=int, default=100)
    parser.add_argument("--forged", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 20))
    options = parser.parse_args()
    say(f"{options.dialogs} dialogs, {options.forged} forged requests, seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="serpy-dialogs.") as name:
        running = Running(Path(name))
        prepare(running, options.dialogs)
        running.start()
        town = Town(running, options.dialogs, options.seed)
        try:
            third = options.forged // 3
            town.all("begin")
            say(f"begun: {town.passed} requests of the parties have passed")
            town.forge(third)
            kill_a_receiver(running)
            say("a receiver was killed")
            town.all("middle")
            town.forge(third)
            running.stop()
            running.start()
            say("the server was restarted")
            town.all("late")
            town.forge(options.forged - 2 * third)
            town.all("end")
            town.look()
        finally:
            running.stop()
            town.close()
        statistics = ", ".join(f"{count} {kind}" for kind, count in sorted(town.forgers.sent.items()))
        say(f"requests of the right parties: {town.passed} sent, {town.passed} passed")
        say(f"forged: {sum(town.forgers.sent.values())} sent ({statistics}), {len(town.passed_forged)} passed")
        for what in town.passed_forged[:20]:
            say(f"  {what}")
        return 1 if town.passed_forged else 0


if __name__ == "__main__":
    raise SystemExit(main())
