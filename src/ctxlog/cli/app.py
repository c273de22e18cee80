"""The program: its commands by name, its help on one screen, and what becomes of errors.

Commands are imported when they are called or asked for help, so that `ctxlog --help` costs what click costs.

Exit codes: 0 done, 1 failed, 2 usage, 3 verification failed, 130 interrupted, 141 the reader of the output went away.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby
from typing import Any, NamedTuple, NoReturn

import click

from ctxlog.cli.output import coloured, note, print_json
from ctxlog.cli.session import Session, log_option, output_option
from ctxlog.errors import CtxlogError, InvalidInputError

FAILED, USAGE, INTERRUPTED, OUTPUT_CLOSED = 1, 2, 130, 141

_DUCKDB_INTERRUPTED = "Query interrupted"
"""What DuckDB makes of a Ctrl-C, as a RuntimeError."""


class Entry(NamedTuple):
    """A command: its group in the help, the module that has it, the line that describes it."""

    group: str
    module: str
    line: str


COMMANDS = {
    "streams": Entry("see", "see", "List the streams"),
    "log": Entry("see", "timeline", "Follow one stream (-f)"),
    "show": Entry("see", "see", "Read one context"),
    "diff": Entry("see", "prove", "Compare two contexts"),
    "blame": Entry("see", "audit", "Say who set a fact"),
    "decisions": Entry("see", "audit", "Find decisions"),
    "append": Entry("write", "append", "Append, all or nothing"),
    "import": Entry("write", "write", "Bring in recorded runs"),
    "copy": Entry("write", "write", "Copy a log; resumable"),
    "init": Entry("write", "write", "Create a log"),
    "query": Entry("SQL", "query", "Ask the views in SQL"),
    "projector": Entry("SQL", "projector", "Keep the views current"),
    "replay": Entry("prove", "prove", "Recompute a context at any point, with a manifest"),
    "audit": Entry("prove", "audit", "Show what a decision knew, and check it"),
    "verify": Entry("prove", "verify", "Check the log, a manifest, or what is signed"),
    "sign": Entry("prove", "sign", "Sign what is in the log"),
    "bundle": Entry("prove", "bundle", "Evidence in one file"),
    "demo": Entry("run", "demo", "See ctxlog at work"),
    "doctor": Entry("run", "doctor", "Say what is wrong"),
    "schemas": Entry("run", "schemas", "List, check, register"),
    "keys": Entry("run", "keys", "Make and list keys"),
    "completion": Entry("run", "completion", "For bash, zsh or fish"),
}

_OPTIONS = """\
  --log URL         The log [CTXLOG_URL; log in ./ctxlog.toml; embedded:.ctxlog]
  -o, --output FMT  table, json or jsonl
  --version         Version   -h, --help  This page; ctxlog COMMAND -h for more
"""


SHORT_LINE = 23
"""Characters of a line with room for a second command beside it, on 80 columns."""


def _rows() -> Iterator[str]:
    """The commands by group, two in a row where their lines are short."""
    for group, members in groupby(COMMANDS.items(), key=lambda item: item[1].group):
        waiting, shown = list(members), group
        while waiting:
            pair = waiting[:2] if all(len(entry.line) <= SHORT_LINE for _, entry in waiting[:2]) else waiting[:1]
            waiting = waiting[len(pair) :]
            cells = [f"{_accent(f'{name:<12}', bold=True)}{entry.line:<{SHORT_LINE}}" for name, entry in pair]
            yield f"  {_accent(f'{shown:<6}', fg='cyan')}{'  '.join(cells).rstrip()}"
            shown = ""


class OutputClosedError(Exception):
    """Whoever read stdout went away, as `head` does."""


class App(click.Group):
    """`ctxlog`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """See click. Every context starts with a `Session`."""
        extra.setdefault("obj", Session())
        return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click names it
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click names it
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"ctxlog.cli.{COMMANDS[cmd_name].module}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """See click. A name that is close to a command's is answered with that one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, 2, 0.5)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"there is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click names it
        """The page, with the commands by group."""
        head = [
            "Usage: ctxlog [OPTIONS] COMMAND [ARGS]...",
            "",
            "  The context log for AI agents: what they knew, kept, replayed, proved.",
            "",
        ]
        formatter.write("\n".join([*head, *_rows(), "", _OPTIONS]))

    def invoke(self, ctx: click.Context) -> Any:
        """See click. What was printed has left the process when this returns."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise OutputClosedError from error
        return result

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Run one command and exit. Errors are one message on stderr, never a traceback."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        extra.pop("standalone_mode", None)
        extra["obj"] = session = Session()
        code = self._run(args, prog_name, extra, session)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        sys.exit(code)

    def _run(self, args: Sequence[str] | None, prog_name: str | None, extra: dict[str, Any], session: Session) -> int:
        try:
            result = super().main(args, prog_name or "ctxlog", standalone_mode=False, **extra)
            return result if isinstance(result, int) else 0
        except (click.Abort, KeyboardInterrupt):
            print("Interrupted.", file=sys.stderr)
            return INTERRUPTED
        except OutputClosedError:
            _drop_stdout()
            return OUTPUT_CLOSED
        except click.UsageError as error:
            _usage(error)
            return USAGE
        except click.ClickException as error:
            note(error.format_message(), kind="Error")
            return error.exit_code
        except CtxlogError as error:
            note(str(error), kind="Error")
            if not session.people:
                print_json(_error_of(error), session.output)
            return USAGE if isinstance(error, InvalidInputError) else FAILED
        except OSError as error:
            if error.filename is not None:
                return _fault(error)
            _drop_stdout()
            note(
                f"the output cannot be written: {error.strerror}. What the command was to do besides, it has done.", kind="Error"
            )
            return FAILED
        except MemoryError:
            note("out of memory; nothing was changed that was not acknowledged.", kind="Error")
            return FAILED
        except Exception as error:
            if isinstance(error, RuntimeError) and str(error) == _DUCKDB_INTERRUPTED:
                print("Interrupted.", file=sys.stderr)
                return INTERRUPTED
            return _fault(error)


def _fault(error: Exception) -> int:
    note(f"{_origin(error)}. This is a fault in ctxlog: please report it, with the command and this line.", kind="Error")
    return FAILED


def _error_of(error: CtxlogError) -> dict[str, Any]:
    """An error as programs read it: its type, its message, its coordinates."""
    plain = {name: value for name, value in vars(error).items() if _is_plain(value)}
    return {"error": {"type": type(error).__name__, "message": str(error), **plain}}


def _is_plain(value: object) -> bool:
    """Whether it is an id, a number, or a list of ids; never records, which hold what the log holds."""
    if isinstance(value, tuple | list):
        return all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, str | int)


def _accent(text: str, **style: Any) -> str:
    return click.style(text, **style) if coloured(sys.stdout) else text


def _usage(error: click.UsageError) -> None:
    note(error.format_message(), kind="Error")
    if error.ctx is not None:
        pieces = error.ctx.command.collect_usage_pieces(error.ctx)
        print(f"Usage: {' '.join([error.ctx.command_path, *pieces])}", file=sys.stderr)
        print(f"`{error.ctx.command_path} --help` says more.", file=sys.stderr)


def _origin(error: BaseException) -> str:
    """Type and place of an unexpected exception. Not its text, which may hold what the log holds."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = ""
    if trace is not None:
        path = trace.tb_frame.f_code.co_filename
        place = f" at {os.path.basename(path)}:{trace.tb_lineno}"  # noqa: PTH119 - pathlib need not be imported for this
    return f"unexpected {type(error).__name__}{place}"


def _drop_stdout() -> None:
    """Let nothing more be written: Python flushes stdout once more when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"ctxlog {version('ctxlog')}")
        ctx.exit()


@click.group(
    cls=App,
    name="ctxlog",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@log_option
@output_option
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version.")
@click.pass_context
def app(ctx: click.Context) -> None:
    """The context log for AI agents."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
