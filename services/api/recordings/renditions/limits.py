"""What renditions take: every size, count and time of them. Bytes, seconds."""

PIECE_SECONDS = 4.096
"""Of a file: 192 frames of AAC at 48 kHz, so that the sound of pieces made apart joins without a seam."""
LEAD_SECONDS = 0.512
"""What the sound's encoder hears of the time before a piece."""
TS_LEAD_SECONDS = 10.0
"""MPEG-TS has no index: the pictures are read from so long before, for there to be a key frame."""
MADE_SECONDS = 60.0
"""A process has so long for one piece."""
MADE_BYTES = 32 * 1024 * 1024
MEMORY_BYTES = 2 * 1024**3
"""Address space of a process."""
THREADS = 2
KEPT_BYTES = 128 * 1024 * 1024
KEPT_PIECES = 512
WAITING = 32
"""Pieces that wait for a process; more are refused."""
LONGEST_SECONDS = 24 * 3600
READ_PIXELS = 8192 * 4352
WIDEST, HIGHEST = 1920, 1080
"""Larger pictures are made smaller."""
TITLES = 256
"""Recordings whose kind is remembered."""
IDLE_SECONDS = 120.0
"""After this without a request for any, a recording's pieces are forgotten."""
