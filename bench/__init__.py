"""Benchmarks: `./dev bench [NAME …] [--json]`. `frame` measures and prints, `rows` says what is measured."""
