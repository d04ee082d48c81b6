"""The terminal's event loop: uvloop's, which sends a segment's bytes without copying them; Windows has asyncio's."""

import sys

if sys.platform == "win32":
    from asyncio import run
else:
    from uvloop import run

__all__ = ["run"]
