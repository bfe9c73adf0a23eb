"""The command line: every command, from quickstart to bench.

`arguments.py` parses, `settings/` says what a training run can be told, and each command has a file of its own, which
is imported once the arguments are known to be right: `--help` and a typing mistake answer at once.
"""

import contextlib
import importlib
import os
import sys
import warnings

from kerasllm.cli.arguments import parse

__all__ = ["main"]


def main(argv=None):
    """Runs the command line.

    Args:
        argv: list of arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0 if all went well, 2 after an error, which is one sentence on standard error, 130 after Ctrl-C.
    """
    arguments = parse(argv)
    try:
        with contextlib.nullcontext() if arguments.debug else _warnings_as_sentences(arguments.command):
            importlib.import_module(f"kerasllm.cli.{arguments.command}").run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, `head` for one, has what it wanted. Nothing must be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("\nkerasllm: interrupted.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError) as error:
        if arguments.debug:
            raise
        print(f"kerasllm {arguments.command}: {_sentence(error)}", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def _warnings_as_sentences(command):
    """Warnings look as errors do while a command runs, and each is shown once, however often the text is read."""
    shown = set()

    def sentence(message, *_):
        text = " ".join(str(message).split())
        if text in shown:
            return ""
        shown.add(text)
        return f"kerasllm {command}: {text}\n"

    usual, warnings.formatwarning = warnings.formatwarning, sentence
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _sentence(error):
    """What an error says, on one line, without the number that the operating system gives it."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(message.split()) or f"{type(error).__name__}; --debug shows where."
