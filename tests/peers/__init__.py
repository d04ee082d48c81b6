"""Peers by other hands that the tests set ours against, and how they are built and run."""
