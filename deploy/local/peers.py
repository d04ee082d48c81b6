"""Independent implementations that tests and benchmarks set ours against."""

from pathlib import Path

from deploy.local import golang
from deploy.local.golang import Program
from deploy.local.processes import Report

READER_NEEDS_GO = (1, 26)
"""The `go` line of the Go programs in `tests/peers`."""


def _is_litewitness(program: Path) -> bool:
    said = golang.answer_of(program, "-h")
    return said is not None and "-ssh-agent" in said.stderr + said.stdout


LITEWITNESS = Program(
    title="litewitness",
    package="filippo.io/torchwood/cmd/litewitness",
    version="v0.10.0",
    needs_go=(1, 27),
    variable="QUANCHENG_LITEWITNESS",
    works=_is_litewitness,
    minutes="1 到 3",
    megabytes=1000,
)
"""A witness of the C2SP tlog-witness protocol by another hand."""


def _is_caddy(program: Path) -> bool:
    said = golang.answer_of(program, "version")
    return said is not None and said.returncode == 0


CADDY = Program(
    title="Caddy",
    package="github.com/caddyserver/caddy/v2/cmd/caddy",
    version="v2.10.2",
    needs_go=(1, 25),
    variable="QUANCHENG_CADDY",
    works=_is_caddy,
    minutes="2 到 6",
    megabytes=2500,
)
"""The TLS proxy of `docker-compose.yml`, in the version that it names."""


def find_caddy(report: Report = print) -> Path:
    return golang.find_or_build(CADDY, report)


def find_litewitness(report: Report = print) -> Path:
    return golang.find_or_build(LITEWITNESS, report)


def find_go(report: Report = print) -> Path:
    """A Go that builds the programs in `tests/peers`."""
    return golang.find_go(report, READER_NEEDS_GO)
