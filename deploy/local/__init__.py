"""The local default: everything of Quancheng on one machine, started by `./dev run`."""
