"""How Quancheng is set up and run."""
