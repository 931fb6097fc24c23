"""tm: transactions for the script. The functions are in ``functions.py``, what the layer asks in ``routes.py``."""

from __future__ import annotations

from serpy.modules.tm.functions import exports

__all__ = ["exports"]
