"""The command line: registers the commands and turns every error into one message and an exit code."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from lwc import __version__
from lwc.cli import init, loadtest, push, steps, store
from lwc.cli import look as looking
from lwc.cli import run as running
from lwc.cli import serve as serving
from lwc.cli import terminal as render
from lwc.cli.options import grouped
from lwc.core.distributed import PeerLost, launched
from lwc.core.errors import (
    BUG,
    INTERRUPTED,
    MISSING,
    OK,
    USAGE,
    LwcError,
    RecipeError,
    disk_full,
    memory_full,
    no_space,
)
from lwc.core.machine import versions

# Libraries written in Rust (safetensors, tokenizers) report a full disk in an exception that is no OSError.
_OS_ERROR = re.compile(r"\(os error \d+\)")

app = typer.Typer(
    name="lwc",
    help="Layerwise compression for deployment: from labelled reviews to a verified Triton endpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Inspect or ingest data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
repo_app = typer.Typer(help="Check a Triton repository.", no_args_is_help=True)
app.add_typer(repo_app, name="repo")
store_app = typer.Typer(help="List or prune stage results.", no_args_is_help=True)
app.add_typer(store_app, name="store")


def _version(asked: bool) -> None:
    if asked:
        libraries = versions(("torch", "transformers", "onnxruntime"))
        told = ", ".join(f"{name} {version or 'not installed'}" for name, version in libraries.items())
        typer.echo(f"lwc {__version__} ({told})")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the full traceback of an error")] = False,
) -> None:
    del version, debug  # --debug is read from argv by main(), which must know it before parsing fails


for command in (
    init.init, running.run, running.plan, running.validate, running.schema, running.sweep, running.compare,
    running.report, steps.score, steps.cut, steps.export, steps.package, serving.serve, serving.deploy,
    serving.rollback, loadtest.loadtest, push.push, looking.families, looking.doctor,
):  # fmt: skip
    app.command()(grouped(command))
data_app.command("inspect")(looking.data_inspect)
data_app.command("ingest")(looking.data_ingest)
repo_app.command("check")(serving.repo_check)
store_app.command("ls")(store.store_ls)
store_app.command("prune")(store.store_prune)


def _quiet() -> None:
    """Silence the libraries' own progress bars and load reports, unless the user has set them."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TQDM_DISABLE", "1"),
    ):
        os.environ.setdefault(name, value)


def _stop_on_signals() -> None:
    """Treat SIGTERM and a closed terminal like Ctrl-C, so that the servers we started are stopped."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:  # nohup means it
            signal.signal(name, stop)


def _cannot_write(problem: Exception, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    if disk_full(problem):
        error = no_space(getattr(problem, "filename2", None) or getattr(problem, "filename", None) or str(problem))
        render.error(error)
        sys.exit(error.exit_code)
    render.error(LwcError(str(problem), "check that the path exists, can be written, and has room"))
    sys.exit(USAGE)


def _check_arguments() -> None:
    """Raise `RecipeError` for an argument with bytes that are no text: no recipe, report or manifest can contain it."""
    for argument in sys.argv[1:]:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RecipeError(f"{argument}: this argument is not UTF-8", "rename the file, or type it again") from error


def main() -> None:
    """Entry point: turns exceptions into one message and the documented exit code."""
    debug = "--debug" in sys.argv
    if not debug:
        _quiet()
    _stop_on_signals()
    try:
        _check_arguments()
        code = app(standalone_mode=False)
    except LwcError as problem:
        if debug:
            traceback.print_exc()
        if not (isinstance(problem, PeerLost) and launched()):
            render.error(problem)
        sys.exit(problem.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ModuleNotFoundError as problem:
        if debug:
            traceback.print_exc()
        render.error(LwcError(str(problem), "pip install 'lwc[serve]'; `lwc doctor` lists what is missing"))
        sys.exit(MISSING)
    except OSError as problem:
        _cannot_write(problem, debug)
    except Exception as problem:
        shown = getattr(problem, "show", None)
        if shown is not None:  # a usage error of the command-line parser
            shown()
            sys.exit(2)
        if _OS_ERROR.search(str(problem)):
            _cannot_write(problem, debug)
        if debug:
            raise
        if memory_full(problem):
            hint = "lower the batch size, model.max_length or the size of the model, or use a machine with more memory"
            render.error(LwcError(f"out of memory: {problem}", hint))
            sys.exit(MISSING)
        said = render.harmless(f"{type(problem).__name__}: {problem}")
        typer.echo(f"bug: {said}\n  do: rerun with --debug and report it", err=True)
        sys.exit(BUG)
    if code == INTERRUPTED and not launched():  # the parser turns Ctrl-C into this code, or lets the exception through
        typer.echo("interrupted; rerun the same command to resume", err=True)
        # CPython remembers a KeyboardInterrupt that passed through exec() of a string, as libraries call it while
        # they are imported, and `python -m` then dies of SIGINT instead of this exit code. The next exec() forgets it.
        exec("")
    sys.exit(code if isinstance(code, int) else OK)


if __name__ == "__main__":
    main()
