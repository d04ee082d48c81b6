"""Taking over a folder of finished files from a recorder: `python -m services.terminal dock FOLDER`.

The folder is the spool: nothing is copied out of it, and nothing in it is ever changed. Each file is hashed once,
sealed in segments by the direct door, and closed with what it is, when it was taken over, and why it was not live.
"""
