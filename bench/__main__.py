"""`./dev bench [NAME …] [--json]`: measure all rows, or the named ones."""

import argparse
import sys

from bench import rows
from bench.frame import HEADER, ROWS, as_json, as_line, measure
from bench.system import held


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each goal. Exits 2 on an unknown name, 1 when a goal was not met."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=rows.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to measure: " + ", ".join(ROWS))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.names if name not in ROWS]
    if unknown:
        print(f"没有名为 {', '.join(unknown)} 的基准;现有:{', '.join(ROWS)}。", file=sys.stderr)
        return 2
    if not asked.json:
        print(HEADER, flush=True)
    met = True
    with held:
        for name in asked.names or ROWS:
            for result in measure(ROWS[name]):
                print(as_json(result) if asked.json else as_line(result), flush=True)
                met = met and result.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
