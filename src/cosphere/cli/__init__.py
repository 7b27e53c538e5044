"""The `cosphere` command: parse, make one call, print. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import importlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from cosphere.cli.commands import COMMANDS, instead, verbs
from cosphere.cli.torch_part import defer_shape_kernels
from cosphere.errors import CosphereError, escaped

_EXAMPLES = """examples:
  cosphere demo
  cosphere data check photos/
  cosphere train photos/ --name first --loss.name multi_similarity --sec.weight 0.02
  cosphere evaluate runs/first
  cosphere search runs/first photos/ query.jpg
  cosphere report runs/first

`cosphere COMMAND --help` shows a command's settings and its own examples."""

_ONLY_ENCODE = (["search"], ["embed"], ["index"])
"""First words of the commands for whose process torch's compiler is of no use."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 2 after a mistake of the user (one line on stderr says what to do), 130 when interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(given)
        sys.stdout.flush()  # report a full disk here, not in Python's shutdown
        return code
    except CosphereError as error:
        print(f"cosphere: {escaped(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cosphere: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _discard_output()
            text = "cannot write the output: no space left. Free some space."
        elif error.filename is not None:  # no rights, too long a name, a disk that fails
            text = f"{os.fspath(error.filename)} cannot be used: {error.strerror}. Check the path and its rights."
        else:
            raise
        print(f"cosphere: {escaped(text)}", file=sys.stderr)
        return 2


def command() -> NoReturn:
    """The process of the command: :func:`main`, then the end. Never returns, so a program calls :func:`main`."""
    if sys.argv[1:2] in _ONLY_ENCODE:
        defer_shape_kernels()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Letters that its encoding lacks are written as stderr writes them; they would end in a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_, **__: f"note: {escaped(message)}\n"  # without the line of code
    _end(main())


def _end(code: int) -> NoReturn:
    """End the process as ``sys.exit`` does, but without the destructors of C++ libraries.

    Those of torch take its operators out of their tables one by one, a quarter of a second after the answer was printed. What
    Python does at the end is done first: its threads have ended, what was registered with atexit has run, the output is flushed.
    """
    waiting = any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    if waiting or "torch" not in sys.modules or os.name != "posix":
        sys.exit(code)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)  # Python reports it
    os._exit(code)


def _discard_output() -> None:
    """Send what is left in the buffer nowhere; else Python complains again when it flushes at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(given: list[str]) -> int:
    if given[:1] == ["help"] and given[1:]:  # as git has it
        given = [*given[1:], "--help"]
    if not given or given[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if given[0] in ("-V", "--version", "version"):
        from cosphere import __version__

        print(f"cosphere {__version__}")
        return 0
    group = verbs(given[0])
    if group and (len(given) == 1 or given[1] in ("-h", "--help")):
        print(_help(f"{given[0]} "))
        return 0
    name, rest = (f"{given[0]} {given[1]}", given[2:]) if group else (given[0], given[1:])
    if group and given[1] not in group:
        raise CosphereError(f"there is no `cosphere {name}`. {instead(name)}")
    if name not in COMMANDS:
        raise CosphereError(f"there is no command {name!r}. {instead(name)}")
    from cosphere.cli import quick

    rest = quick.understood(name, rest)
    shown = quick.answer(name, rest)
    if shown is not None:
        print(shown, end="")
        return 0
    return int(_imported(COMMANDS[name][0]).run(rest))


def _imported(module: str) -> ModuleType:
    """A command's module, imported without garbage collection.

    Importing torch makes some 300 000 objects that live until the process ends. The collector looks through all of them again and
    again in vain, which takes a third of the import's time. Freezing them keeps them out of later collections, also of the one
    when the process ends. Only the command does this; ``import cosphere`` leaves the collector of a program as it is.
    """
    if module in sys.modules or not gc.isenabled():
        return importlib.import_module(module)
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def _help(group: str = "") -> str:
    """All commands, or those whose names begin with a word."""
    about = {name: text for name, (_, text) in COMMANDS.items() if name.startswith(group)}
    width = max(map(len, about))
    lines = [f"  {name:<{width}}  {text}" for name, text in about.items()]
    if group:
        usage = f"usage: cosphere {group}VERB ..."
        return "\n".join(
            [usage, "", *lines, "", f"`cosphere {group}VERB --help` shows the settings and examples of each."]
        )
    return "\n".join(
        [
            "usage: cosphere COMMAND ...",
            "",
            "Train, evaluate and search image embeddings that lie on one sphere.",
            "",
            "commands:",
            *lines,
            "",
            _EXAMPLES,
        ]
    )
