"""`ctxlog completion`: the script that lets a shell complete commands, options and stream names."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    short_help="Print the completion script for a shell",
    epilog='\b\nExamples:\n  eval "$(ctxlog completion bash)"              # in ~/.bashrc\n'
    '  eval "$(ctxlog completion zsh)"               # in ~/.zshrc\n'
    "  ctxlog completion fish > ~/.config/fish/completions/ctxlog.fish",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    """Print the script that completes commands, options and the names of streams in SHELL."""
    from click.shell_completion import get_completion_class

    from ctxlog.cli.app import app

    found = get_completion_class(shell)
    if found is None:  # Not in any click that we accept.
        raise click.UsageError(f"click knows no completion for {shell}.")
    click.echo(found(app, {}, "ctxlog", "_CTXLOG_COMPLETE").source())
