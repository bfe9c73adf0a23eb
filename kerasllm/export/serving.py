"""A TensorFlow SavedModel with the tokenizer, the model, its cache and its sampling inside.

What its signatures do is in signatures.py.
"""

import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kerasllm import backend
from kerasllm.export.steered import read_steering
from kerasllm.files import new_folder, read_json, write_json
from kerasllm.generation.watermarks import read_watermark
from kerasllm.models.shapes import fixed_length, output_width
from kerasllm.tasks import TASKS, task_of
from kerasllm.tokenizers import Tokenizer, as_tokenizer
from kerasllm.tokenizers.sides import as_pair, load_tokenizer, save_tokenizer

_ASKED = "asked.json"


def saved_model(
    model: keras.Model,
    tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer],
    path: str | os.PathLike,
    *,
    text: bool = True,
    compiled: bool = False,
    constraints: Mapping[str, str | Sequence[str] | Mapping[str, Any]] | None = None,
    watermark: Any = None,
    steering: Any = None,
) -> None:
    """Writes a SavedModel that takes text and returns text, in any TensorFlow runtime.

    Its signatures, for batches of B texts of any lengths:
        serving_default: text string (B,) -> text string (B,), the likeliest continuations, as `kerasllm.generate`
            gives them by default: up to 256 tokens, as far as the context reaches.
        generate: text string (B,); scalars max_new_tokens int32, temperature float32 (0 is greedy), top_k int32 (0 is
            off), top_p float32 (1 is off), seed int32 -> text string (B,); tokens int32 (B,), how many were drawn;
            finish_reason string (B,), "stop" behind an end token and "length" behind max_new_tokens.
        generate_ids: the same for token ids: token_ids int32 (B, T), padded on the right; prompt_lengths int32 (B,);
            the scalars of `generate` -> token_ids int32 (B, N), new tokens with 0 after a row's end; lengths int32
            (B,), how many of them are text.
        forward: token_ids int32 (B, T) -> logits float32 (B, T, V).
        constrained, where there are `constraints`: as `generate`, with two more string scalars: constraint, the name of
            what the texts are held to; and finish, "valid" for texts that end within max_new_tokens as they should, or
            "length" for texts that are cut there.

    Those of a `VisionLanguageModel` that has an `image_processor`; prompts are those of `kerasllm.data.image_prompt`:
        serving_default: image string (B,), the bytes of a file for each text; text string (B,) -> text string (B,).
        generate: as above, with image beside text.
        forward: token_ids int32 (B, T) -> logits float32 (B, T, V), without images.

    Those of a `Seq2SeqLM`:
        serving_default: text string (B,) -> text string (B,), the translations that `kerasllm.translate` gives.
        translate: text string (B,); scalars num_beams int32, length_penalty float32, max_new_tokens int32 -> text
            string (B,); score float32 (B,).
        forward: source_ids int32 (B, S), source_mask bool (B, S), target_ids int32 (B, T) -> logits float32 (B, T, V).

    Those of a `MaskedLM`, which read the tokenizer's mask token where a text has it:
        serving_default: text string (B,) -> text string (B,), each mask filled with its likeliest token.
        fill_mask: text string (B,); top_k int32 scalar -> for each of M masks row int32 (M,), the text it is in; token
            string (M, k) and probability float32 (M, k), the likeliest first, as `kerasllm.fill_mask` gives them.
        forward: token_ids int32 (B, T) -> logits float32 (B, T, V).

    Those of a `SequenceClassifier`, as `kerasllm.classify` answers; texts longer than the model takes are cut:
        serving_default: text string (B,) -> label string (B,), the likeliest; probability float32 (B,); labels string
            (B, L) and probabilities float32 (B, L) of all; logits float32 (B, L), which are all that there is in
            regression. Of a model for several labels, those with a probability of at least 0.5 are what it says.
        forward: token_ids int32 (B, T) -> logits float32 (B, L).

    Those of a `TextEmbedder`, as `kerasllm.embed` answers without a prompt:
        serving_default: text string (B,) -> vector float32 (B, W).
        forward: token_ids int32 (B, T) -> logits float32 (B, W), the vectors.

    Texts and draws are those of `kerasllm.generate` with the same seed on TensorFlow. (In 16 bits up to the first
    near-tie: Python's loop then computes in float32 on CPUs, and XLA rounds in other places elsewhere.) Bytes
    that are no UTF-8 are read as U+FFFD, and special tokens in a text are text. The graph refuses ids past the
    vocabulary, prompts that do not fit and settings out of their range. A model that sets no limit of its own takes
    `signatures.LONGEST_TEXT` (4,096) tokens, prompt and continuation together.

    Args:
        model: a `CausalLM`, `MaskedLM` or `Seq2SeqLM`, or any causal Keras model from ids (B, T) to logits (B, T, V).
            On another backend than TensorFlow, the export runs in a second Python process, with the model read from a
            `.keras` file.
        tokenizer: its `Tokenizer`, or the pair (source, target); also saved beside the graph in `assets.extra/`.
        path: folder to make. It must not exist, or be empty.
        text: bool. False leaves out what takes or gives text, and so asks nothing of the tokenizer: what is left is
            `generate_ids` and `forward`, and `forward` alone of other than causal models.
        compiled: bool, for models that continue texts. True has XLA compile the loop when it first runs, as Python's is
            compiled: once for each batch size and each length of prompts and of continuations, rounded up. Quicker
            then, where the runtime has XLA: `tf.saved_model.load` has, TensorFlow Serving on CPUs with its flag
            `--xla_cpu_compilation_enabled`.
        constraints: dict from names to regular expressions (str), choices (list of str) or JSON schemas (dict) that are
            regular expressions, for models that continue texts: what a text may be held to, as by `generate` with
            `regex`, `choices` and `json_schema`.
        watermark: as in `kerasllm.generate`, for models that continue texts: all that the SavedModel writes bears it.
        steering: a `kerasllm.interpret.SteeringVector`, or a dict from names to such, for models that continue texts.
            `generate` and `generate_ids` then have a float32 scalar more, called "steering" or by these names: the
            strength of each, of which 0 changes nothing.

    Raises:
        FileExistsError: if the folder exists and is not empty; it is not touched.
        ValueError: for a model that is not causal or takes one text length only, a tokenizer that cannot run in a
            graph, or a model of another kind of which something is asked that texts are continued by; the message names
            the part.
        RuntimeError: if the second process fails; the message ends with what it wrote.

    Example:
        >>> kerasllm.export.saved_model(model, tokenizer, "exported")
        >>> loaded = tf.saved_model.load("exported")
        >>> loaded.signatures["serving_default"](text=tf.constant(["Once upon a time"]))["text"]
    """
    if fixed_length(model) is not None:
        raise ValueError(
            f"{model.name} takes texts of {fixed_length(model)} tokens only. Build it with keras.Input((None,)) to "
            f"export it."
        )
    task = task_of(model) or TASKS["causal"]  # as any other Keras model that `generate` takes
    asked = {"compiled": compiled, "constraints": constraints, "watermark": watermark, "steering": steering}
    asked = {name: value for name, value in asked.items() if value}
    if asked and task.function != "generate":
        name = next(iter(asked))
        raise ValueError(f"`{name}` is for models that continue texts, got a {type(model).__name__}: leave it out.")
    if constraints and not text:
        raise ValueError("`constraints` are for models that take and give text: leave them out.")
    if steering:
        asked["steering"] = read_steering(model, steering)
    output_width(model)  # Builds a model that has not seen data yet.
    tokenizer = as_pair(tokenizer) if isinstance(tokenizer, tuple | list) else as_tokenizer(tokenizer)
    with new_folder(path) as draft:
        if backend.IS_TENSORFLOW:
            _write(model, tokenizer, draft, text, asked)
        else:
            _write_in_another_process(model, tokenizer, draft, text, asked)
        (draft / "assets.extra").mkdir()
        save_tokenizer(tokenizer, draft / "assets.extra")


def _write(model, tokenizer, folder, text, asked):
    import tensorflow as tf

    task = task_of(model) or TASKS["causal"]
    served = task.served(model, tokenizer, text, **asked)
    with backend.plain_graph():
        signatures = {name: getattr(served, name).get_concrete_function() for name in served.SIGNATURES}
        for name, function in signatures.items():
            setattr(served, name, function)  # Each `tf.function` that `save` finds it would trace once more.
        with _without_info(tf.get_logger()):  # It would name the temporary folder.
            tf.saved_model.save(served, str(folder), signatures)


def _write_in_another_process(model, tokenizer, folder, text, asked):
    """Keras has one backend in a process, so TensorFlow needs a process of its own."""
    with tempfile.TemporaryDirectory() as between:
        model.save(Path(between) / "model.keras")
        save_tokenizer(tokenizer, between)
        if "watermark" in asked:
            asked = {**asked, "watermark": dataclasses.asdict(read_watermark(asked["watermark"]))}
        write_json(Path(between) / _ASKED, {"text": text, **asked})
        command = [sys.executable, "-m", "kerasllm.export", between, str(folder)]
        package = Path(__file__).parents[2]
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines()
        raise RuntimeError(f"The export under TensorFlow failed: {lines[-1] if lines else finished.returncode}")


def write_from_files(source, folder):
    """What the second process does: reads `model.keras`, the tokenizer and what is asked for from `source`, and writes
    into `folder`."""
    model, tokenizer = keras.models.load_model(Path(source) / "model.keras"), load_tokenizer(source)
    asked = read_json(Path(source) / _ASKED)
    _write(model, tokenizer, folder, asked.pop("text"), asked)


@contextlib.contextmanager
def _without_info(logger):
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
