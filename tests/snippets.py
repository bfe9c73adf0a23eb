"""A second Python that has imported what takes seconds, and forks itself for each snippet that it is given.

As a program (`python snippets.py BACKEND`) it reads lines of JSON from its standard input, each a snippet and what it
runs with, and answers each with the status that the snippet ended with. Nothing is computed before it forks, so that no
device is begun and no thread of one is lost.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Server:
    """A process for snippets on a backend.

    Args:
        backend: "tensorflow", "jax" or "torch".
    """

    def __init__(self, backend):
        environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling takes longer than all that is computed here
        self._backend = backend
        self._process = subprocess.Popen(
            [sys.executable, __file__, backend],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code, folder, hide=(), timeout=300):
        """Runs a snippet as if the modules `hide` were not installed; returns its status, output and errors."""
        files = [str(folder / name) for name in ("output", "errors")]
        environment = {**os.environ, "KERAS_BACKEND": self._backend}
        request = {"code": code, "files": files, "hide": hide, "environment": environment, "timeout": timeout}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        status = self._process.stdout.readline()
        return int(status or 1), *(Path(file).read_text() for file in files)

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def serve(backend):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what modules print as they are imported is no answer
    gc.disable()  # until all is imported, of which nothing is garbage
    if backend != "tensorflow":
        sys.modules["tensorflow"] = None  # which Keras would import though nothing asks for it
        importlib.import_module(backend)
    import keras  # noqa: F401

    import kerasllm.generation
    import kerasllm.models
    import kerasllm.optimizers  # noqa: F401

    if backend != "tensorflow":
        del sys.modules["tensorflow"]
    gc.freeze()
    gc.enable()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _run(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _run(request):
    """The child: runs a snippet and ends the process."""
    signal.alarm(request["timeout"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, file in enumerate(request["files"], start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for hidden in request["hide"]:
        for name in [name for name in sys.modules if name.partition(".")[0] == hidden]:
            del sys.modules[name]
        sys.modules[hidden] = None
    status = 1
    try:
        exec(compile(request["code"], "snippet", "exec"), {"__name__": "__main__"})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file: snippets see what users see
    serve(*sys.argv[1:])
