"""The command line: parse, call, print. What is decided, read or proved is decided below.

Only `main` is here, so that the program starts without importing what the command at hand does not use.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run `ctxlog` with the arguments of the process, and exit."""
    import sys

    try:
        from ctxlog.cli.app import app
    except KeyboardInterrupt:
        sys.exit(130)
    app.main(prog_name="ctxlog")
