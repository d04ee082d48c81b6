"""Renditions: what a browser cannot play, made over into H.264 and AAC while somebody watches, piece by piece.

A rendition is for looking at and is never the record. Nothing of it is on disk: each piece is made by a process of
its own when it is first asked for, kept in memory for whoever watches the same recording, and gone with the process,
when newer pieces take its place, or when nobody watches any more.
"""
