"""The reference recorder terminal: records, spools, and sends until all is receipted."""
