"""The command itself: commands register here, and what goes wrong in them is told in one line."""

from __future__ import annotations

import signal
import sys
import warnings
from typing import Annotated

import typer

from tl_entropy.errors import TLEntropyError

# Typer brings its own copy of click in some versions and imports it in others; this is the base of its errors in both.
_CommandError: type[Exception] = typer.BadParameter.__mro__[2]

INTERRUPTED = 130
"""The exit status of what Ctrl-C ends, as shells have it; some versions of Typer return it, others raise ``Abort``."""

app = typer.Typer(
    help="Information measures on the insides of TransformerLens models.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from tl_entropy.results.provenance import library_versions

        typer.echo(", ".join(f"{name} {version}" for name, version in library_versions().items()))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="say which versions are installed, and exit")
    ] = False,
) -> None:
    """Information measures on the insides of TransformerLens models."""


def examples(*lines: str) -> str:
    """The end of a command's help; lines stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def main() -> None:
    """Run the command; what goes wrong is told in one line, with exit status 2, and so is a warning.

    SIGTERM, as batch systems send it, ends a pass of any command like Ctrl-C: what was measured until then is written, and the
    exit status is 130.
    """
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    before, form = signal.signal(signal.SIGTERM, _interrupt), warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"tl-entropy: warning: {' '.join(str(message).split())}\n"
    try:
        status = app(prog_name="tl-entropy", standalone_mode=False)
    except typer.Abort:
        status = INTERRUPTED
    except _CommandError as error:
        _fail(error.format_message(), 2)  # type: ignore[attr-defined]
    except (TLEntropyError, OSError, ImportError) as error:  # ImportError: an extra that is not installed
        _fail(str(error), 2)
    finally:
        signal.signal(signal.SIGTERM, before)
        warnings.formatwarning = form
    if status == INTERRUPTED:
        _fail("interrupted", INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _interrupt(*_: object) -> None:
    """Like Ctrl-C, also where that is ignored, as in what a script starts in the background."""
    if callable(signal.getsignal(signal.SIGINT)):  # then a batch is taken in as a whole first (``capture/feeding.py``)
        signal.raise_signal(signal.SIGINT)
    else:
        raise KeyboardInterrupt


def _fail(message: str, status: int) -> None:
    typer.echo("tl-entropy: " + " ".join(message.split()), err=True)
    sys.exit(status)
