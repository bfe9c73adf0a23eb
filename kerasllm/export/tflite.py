"""A model as a LiteRT graph (.tflite) with a signature for prompts and one for single tokens.

Names and shapes of their tensors are those that LiteRT-LM looks for.
Shapes: T new tokens, S places of the cache, K key/value heads, h head_dim, V vocab.
"""

import contextlib
import tempfile

import tensorflow as tf

from kerasllm import backend
from kerasllm.export.stepwise import Stepwise, WholeCache

PROMPT_LENGTHS = (32, 256)  # A prompt is read in pieces of these, the last one filled up.


def tflite_graph(model, context):
    """The bytes of a .tflite file, in float32.

    Its signatures, `prefill_32`, `prefill_256` (so far as they fit into the context) and `decode`:
        tokens int32 (1, T); input_pos int32 (T,), of which the first counts; kv_cache_k_0, kv_cache_v_0 and so on, for
        each layer float32 (1, K, S, h) -> the caches with the tokens; of `decode` also logits float32 (1, 1, V).

    Args:
        model: see `Stepwise`.
        context: int, S.
    """
    stepwise = Stepwise(model, "LiteRT")
    lengths = {f"prefill_{T}": T for T in PROMPT_LENGTHS if context >= T} or {f"prefill_{context}": context}
    with backend.plain_graph(), tempfile.TemporaryDirectory() as folder:
        signatures = {name: _signature(stepwise, T, context) for name, T in {**lengths, "decode": 1}.items()}
        with _quiet():
            tf.saved_model.save(stepwise, folder, signatures)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(signatures))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            converter._experimental_use_buffer_offset = True  # Less memory, and graphs of more than 2 GB.
            return converter.convert()


def _signature(stepwise, T, context):
    specs = {"tokens": tf.TensorSpec((1, T), tf.int32), "input_pos": tf.TensorSpec((T,), tf.int32)}
    for layer, (K, h) in enumerate(stepwise.cache_shapes):
        specs |= {f"kv_cache_{part}_{layer}": tf.TensorSpec((1, K, context, h), tf.float32) for part in "kv"}

    @tf.function(autograph=False)
    def step(tokens, input_pos, **parts):
        index = input_pos[0]
        positions = tf.minimum(index + tf.range(T), context - 1)[None]  # What fills a piece up may lie past the end.
        layers = range(len(stepwise.cache_shapes))
        caches = [WholeCache(*(parts[f"kv_cache_{part}_{layer}"] for part in "kv")) for layer in layers]
        logits, caches = stepwise.step(tokens, caches, index, positions)
        outputs = {
            f"kv_cache_{part}_{layer}": tensor
            for layer in layers
            for part, tensor in zip("kv", caches[layer], strict=True)
        }
        return {**outputs, "logits": logits} if T == 1 else outputs

    return step.get_concrete_function(**specs)


@contextlib.contextmanager
def _quiet():
    """Without what the converter tells of its progress."""
    logger, level = tf.get_logger(), tf.get_logger().level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)
