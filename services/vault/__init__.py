"""The vault knows bytes, keys and time, never the law."""
