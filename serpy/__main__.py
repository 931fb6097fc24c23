"""``python -m serpy``: the command of serpy/daemon.py."""

from __future__ import annotations

import sys

from serpy.daemon import main

sys.exit(main())
