"""What the push, resumable and simple doors take: every size, count and time of them. Bytes, seconds."""

from services.vault.contract.wire import MAX_SEGMENT_BYTES

WHOLE_BYTES = MAX_SEGMENT_BYTES
"""A segment that comes under its own name, and the largest fragment of a stream."""
JOINED_BYTES = 16 * 1024 * 1024
"""A segment that is cut from a stream, unless a single fragment is longer."""
LONGEST_SECONDS = 10.0
"""A segment that is cut from a stream, key frame or not."""
PLAYS_MILLISECONDS = 600_000
"""A segment's length by its own clock."""
CLOCK_MILLISECONDS = 10**13
"""How far the media's own clock may have run: some encoders begin it in 1970."""
PLAYLIST_BYTES = 1024 * 1024
NAME_CHARACTERS = 200
FRAGMENT_SECONDS = 120.0
"""Without a single whole segment, however it trickles."""
WHOLE_SECONDS = 12.0
"""What comes under a numbered name and goes on for longer is a stream."""
BODIES_OF_ADDRESS = 8
BURST_SECONDS = 4.0
"""What a source may bring at once beyond its rate, in seconds of that rate."""
SOON_SECONDS = 15.0
"""After a source said that it is done, its recording waits so long for more."""
ENDLESS_SECONDS = 3600.0
"""A hall camera never ends: so long is each of its recordings."""

UPLOAD_BYTES = 64 * 1024**3
"""A file that is uploaded in pieces."""
OPEN_UPLOADS = 200
"""Of one address, unfinished."""
PARTS = 64
"""That one upload is put together of."""
CHECKED_BYTES = 16 * 1024 * 1024
"""A piece that comes with its checksum, which is held in memory until it was checked."""
METADATA_CHARACTERS = 4096

PHOTO_BYTES = SOUND_BYTES = DOCUMENT_BYTES = MAX_SEGMENT_BYTES
"""A single file is sealed whole, as one version of its series; what is larger comes by the resumable door."""
RESULT_BYTES = 16 * 1024 * 1024
ABOUT_BYTES = 16 * 1024
"""What is said of a single file."""
PART_HEADERS_BYTES = 4096
"""The headers of one part of a form."""
AWAITING_FILES = 200
"""Of one source or one person: files that were told of and whose bytes have not come."""
VERSIONS = 100
"""Of one file."""
