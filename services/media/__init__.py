"""What a recording is made of, byte by byte: pure, and known to whoever cuts."""
