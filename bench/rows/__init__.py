"""What is measured. Each row's docstring says what from and to, so that a number can be argued with."""

from bench.rows import direct, glass, hold, live, log, push, start, verify

__all__ = ["direct", "glass", "hold", "live", "log", "push", "start", "verify"]
