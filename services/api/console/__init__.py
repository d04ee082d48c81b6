"""The console: HTML pages over the rooms' services. It owns no table and no rule of its own."""
