"""What every test may use: quiet imports, fixed seeds, the shared data sets and a second Python."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# Each worker of pytest-xdist has a core of its own, and what is computed here is small.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiling takes longer than what it saves

import gc
import sys
import textwrap
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from snippets import Server

ROOT = Path(__file__).resolve().parents[1]
gc.disable()  # until all test files are imported, of which nothing is garbage


# The files that take longest: they come first, so that no worker is left alone with one.
LONGEST = [
    *("test_generation", "test_fit", "test_seq2seq", "test_in_graph", "test_cli", "test_export", "test_checkpoint"),
    *("test_layer_properties", "test_memory", "test_jax", "test_micro_batches", "test_models", "test_masked_lm"),
    *("test_chunked_loss", "test_benchmark", "test_adapters", "test_cli_translate", "test_parts", "test_docs"),
    *("test_keras_features", "test_layers", "test_rules", "test_huggingface", "test_documented_example"),
    *("test_inputs", "test_dense", "test_loss_guard", "test_in_graph_published", "test_cli_masked"),
]


def pytest_ignore_collect(collection_path, config):
    """Torch and transformers are imported only where something is compared with them."""
    return True if collection_path.name == "parity" and "not parity" in config.option.markexpr else None


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    if os.environ.get("KERAS_BACKEND") == "torch":
        for item in items:
            if item.get_closest_marker("traced"):
                item.add_marker(pytest.mark.skip(reason="torch calls functions, and does not trace them"))


def pytest_collection_finish():
    """What has been imported by now stays: the collector of cycles, a third of the time otherwise, looks elsewhere."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    gc.enable()
    if "tensorflow" in sys.modules:  # which would note of each op of a graph where it was made, far below pytest
        from tensorflow.python.util import tf_stack

        stack = tf_stack.extract_stack()
        tf_stack.extract_stack = lambda stacklevel=1: stack


# Compiling a graph takes seconds, so no deadline; derandomized, so that a red run is red again. `.ci/run` tries more
# examples: `--hypothesis-profile=soak -m hypothesis`.
for profile, examples in {"quick": 25, "soak": 200}.items():
    hypothesis.settings.register_profile(
        profile, deadline=None, derandomize=True, database=None, print_blob=True, max_examples=examples
    )
hypothesis.settings.load_profile("quick")


if os.environ.get("KERAS_BACKEND") == "torch":  # whose tensors NumPy is else refused when they know of a gradient
    import torch

    def as_array(self, dtype=None, copy=None):
        return np.asarray((self.float() if self.dtype is torch.bfloat16 else self).detach().cpu().numpy(), dtype)

    torch.Tensor.__array__ = as_array


@pytest.fixture(autouse=True, scope="module")
def _no_kernels_of_other_files():
    """A new seed makes TensorFlow forget its kernels, and with them what was compiled for models that are gone."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Gives each test the same seed and the float32 policy, whatever ran before it."""
    keras = sys.modules.get("keras")
    if keras is not None:
        with pytest.MonkeyPatch.context() as patch:
            if "tensorflow" in sys.modules:  # which would compile anew what the tests of a file share
                from tensorflow.python import pywrap_tfe

                patch.setattr(pywrap_tfe, "TFE_ContextClearCaches", lambda _: None)
            keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy("float32")
    yield


@pytest.fixture(autouse=True)
def _quick_graphs(request, monkeypatch):
    """Text is decoded without XLA, which takes a third of the time to compile."""
    if "keras" in sys.modules and os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        is_for_xla = request.node.get_closest_marker("optimised")
        monkeypatch.setattr("kerasllm.generation.stepping.CachedStepper.uses_xla", bool(is_for_xla))


@pytest.fixture(scope="module")
def few_rounds():
    """A training run is measured and drawn four times, not twenty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kerasllm.recipe.ROUNDS", 4)
        yield


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets: `KERASLLM_DATA`, or `../shared/data` beside the repository."""
    folder = Path(os.environ.get("KERASLLM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set KERASLLM_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def _servers():
    servers = {}
    yield servers
    for server in servers.values():
        server.close()


@pytest.fixture(params=["jax", "torch"])
def other_backend(request):
    """What Keras may run on in TensorFlow's place."""
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def run_python(_servers, tmp_path_factory):
    """Runs a snippet in a second Python from the repository's root and returns what it printed.

    `run_python(code, backend="jax")` runs it on JAX, `run_python(code, hide=["tensorflow"])` as if a module were not
    installed. A snippet that fails fails the test with its traceback.
    """

    def run(code, backend="tensorflow", hide=(), timeout=300):
        if backend not in _servers:
            _servers[backend] = Server(backend)
        status, output, errors = _servers[backend].run(
            textwrap.dedent(code), tmp_path_factory.mktemp("snippet"), hide, timeout
        )
        if status:
            pytest.fail(f"the snippet ended with {status}:\n{errors}", pytrace=False)
        return output

    return run
