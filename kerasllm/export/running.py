"""Graphs of LiteRT, run here: what holds them against the model they were made from, and measures them."""

import numpy as np

_MOST_TOKENS = 40


class Graph:
    """A .tflite file of `tflite_graph`, run by LiteRT's interpreter, or where that is not installed by TensorFlow's.

    Args:
        path: the file.
        threads: int or None, of the processor.

    Attributes:
        context: int, the most tokens of a text.
    """

    def __init__(self, path, threads=None):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            from tensorflow.lite import Interpreter
        self._interpreter = Interpreter(str(path), num_threads=threads)
        names = self._interpreter.get_signature_list()
        self._run = {name: self._interpreter.get_signature_runner(name) for name in names}
        self._lengths = sorted(int(name.removeprefix("prefill_")) for name in names if name != "decode")
        details = self._run["decode"].get_input_details()
        self._empty = {name: np.zeros(x["shape"], "float32") for name, x in details.items() if name.startswith("kv_")}
        self.context = self._empty["kv_cache_k_0"].shape[2]

    def generate_ids(self, prompt, max_new_tokens):
        """The likeliest continuation of a list of ids: so many more."""
        ids, cache = list(prompt), self._read(prompt[:-1])
        for _ in range(max_new_tokens):
            logits, cache = self._step(ids[-1], len(ids) - 1, cache)
            ids.append(int(logits.argmax()))
        return ids[len(prompt) :]

    def logits(self, ids, first=0):
        """Logits after each token of a list from `first` on, float32 (T - first, V); those before it are read as a
        prompt."""
        cache, rows = self._read(ids[:first]), []
        for place in range(first, len(ids)):
            logits, cache = self._step(ids[place], place, cache)
            rows.append(logits)
        return np.stack(rows)

    def _read(self, ids):
        """The cache of a prompt, read in pieces as LiteRT-LM does it: positions of what fills one up are 0."""
        cache, place = self._empty, 0
        while place < len(ids):
            left = len(ids) - place
            T = next((length for length in self._lengths if length >= left), self._lengths[-1])
            tokens, positions, count = np.zeros((1, T), "int32"), np.zeros(T, "int32"), min(left, T)
            tokens[0, :count], positions[:count] = ids[place : place + count], np.arange(place, place + count)
            cache = self._run[f"prefill_{T}"](tokens=tokens, input_pos=positions, **cache)
            place += count
        return cache

    def _step(self, token, place, cache):
        tokens, positions = np.array([[token]], "int32"), np.array([place], "int32")
        outputs = self._run["decode"](tokens=tokens, input_pos=positions, **cache)
        return outputs.pop("logits")[0, 0], outputs


def check_graph(model, path):
    """Refuses a graph whose logits are others than the model's, of a few tokens read one by one and as a prompt.

    Args:
        model: the model that it was made from.
        path: of the .tflite file, in float32.

    Raises:
        ValueError: if they differ by more than rounding.
    """
    from keras import ops

    from kerasllm.generation.precision import in_float32
    from kerasllm.models.shapes import output_width

    graph, difference = Graph(path), 0.0
    V, most = output_width(model), min(_MOST_TOKENS, graph.context)
    ids = (7 * np.arange(1, most + 1) % V).tolist()
    call = in_float32(model, lambda ids: model(ids, training=False))  # as the graph computes
    expected = ops.convert_to_numpy(ops.cast(call(np.array([ids], "int32")), "float32"))[0]
    for first in (0, most - 2):
        differences = np.abs(graph.logits(ids[: first + 2], first) - expected[first : first + 2])
        difference = max(difference, float(differences.max()))
    if not difference <= 1e-3 * max(1.0, float(np.abs(expected).max())):
        raise ValueError(f"The graph does not do what {model.name} does: its logits differ by up to {difference:.2g}.")
