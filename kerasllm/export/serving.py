"""A TensorFlow SavedModel with the model, its cache and its sampling inside.

Shapes: B batch, T prompt, N new tokens, V vocab.
"""

import contextlib
import logging

import keras

from kerasllm import backend
from kerasllm.files import new_folder
from kerasllm.generation.decoding import decode
from kerasllm.generation.stepping import get_stepper
from kerasllm.models.shapes import context_length, fixed_length, output_width

# Sampling with every setting an input of the graph; temperature 0 is greedy.
ALL_SETTINGS = (None, False, True)


def saved_model(model, tokenizer, path):
    """Writes a SavedModel of token ids that any TensorFlow runtime can load.

    Its signatures:
        forward: token_ids int32 (B, T) -> logits float32 (B, T, V).
        generate_ids: token_ids int32 (B, T), padded on the right; prompt_lengths int32 (B,); scalars max_new_tokens
            int32, temperature float32 (0 is greedy), top_k int32 (0 is off), top_p float32 (1 is off), seed int32
            -> token_ids int32 (B, N), new tokens with 0 after a row's end; lengths int32 (B,), how many of them are
            text. The same seed draws what `kerasllm.generate` draws.

    Ids past the vocabulary, prompts that do not fit and settings out of their range are refused by the graph.

    Args:
        model: a `CausalLM`, or any causal Keras model from ids (B, T) to logits (B, T, V).
        tokenizer: its `Tokenizer`; saved beside the graph in `assets.extra/`.
        path: folder to make.

    Raises:
        FileExistsError: if the folder exists; it is not touched.
        ValueError: on another backend than TensorFlow, or for a model that takes one text length only.

    Example:
        >>> kerasllm.export.saved_model(model, tokenizer, "exported")
        >>> loaded = tf.saved_model.load("exported")
        >>> loaded.signatures["forward"](token_ids=tf.constant([[1, 2, 3]]))["logits"]
    """
    if not backend.IS_TENSORFLOW:
        raise ValueError(
            f"A SavedModel is written by TensorFlow, but Keras runs on {keras.backend.backend()}. Save the model with "
            f"kerasllm.save, and export it in a process with KERAS_BACKEND=tensorflow."
        )
    import tensorflow as tf

    if fixed_length(model) is not None:
        raise ValueError(
            f"{model.name} takes texts of {fixed_length(model)} tokens only. Build it with keras.Input((None,)) to "
            f"export it."
        )
    output_width(model)  # Builds a model that has not seen data yet.
    with new_folder(path) as draft:
        module = tf.Module()
        module.variables_of_model = [variable.value for variable in model.variables]
        module.forward = _forward(tf, model)
        module.generate_ids = _generate_ids(tf, model, tokenizer)
        with backend.plain_graph():
            signatures = {name: getattr(module, name).get_concrete_function() for name in ("forward", "generate_ids")}
            with _without_info(tf.get_logger()):  # It would name the temporary folder.
                tf.saved_model.save(module, str(draft), signatures)
        (draft / "assets.extra").mkdir()
        tokenizer.save(draft / "assets.extra")


@contextlib.contextmanager
def _without_info(logger):
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _forward(tf, model):
    vocab_size, context = output_width(model), context_length(model)

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, "token_ids")], autograph=False)
    def forward(token_ids):
        checks = _checks(tf, token_ids, tf.shape(token_ids)[1], vocab_size, context)
        with tf.control_dependencies(checks):
            logits = model(tf.identity(token_ids), training=False)
        return {"logits": tf.cast(logits, tf.float32)}

    return forward


def _generate_ids(tf, model, tokenizer):
    vocab_size, context = output_width(model), context_length(model)
    stepper = get_stepper(model)
    end_ids = [-1] if tokenizer.end_id is None else [tokenizer.end_id]

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None), tf.int32, "token_ids"),
            tf.TensorSpec((None,), tf.int32, "prompt_lengths"),
            tf.TensorSpec((), tf.int32, "max_new_tokens"),
            tf.TensorSpec((), tf.float32, "temperature"),
            tf.TensorSpec((), tf.int32, "top_k"),
            tf.TensorSpec((), tf.float32, "top_p"),
            tf.TensorSpec((), tf.int32, "seed"),
        ],
        autograph=False,
    )
    def generate_ids(token_ids, prompt_lengths, max_new_tokens, temperature, top_k, top_p, seed):
        T = tf.shape(token_ids)[1]
        checks = _checks(tf, token_ids, tf.reduce_max(prompt_lengths) + max_new_tokens, vocab_size, context)
        checks += [
            _check(tf, prompt_lengths >= 1, "prompt_lengths must be at least 1"),
            _check(tf, prompt_lengths <= T, "prompt_lengths must be at most the width of token_ids"),
            _check(tf, max_new_tokens >= 1, "max_new_tokens must be at least 1"),
            _check(tf, temperature >= 0, "temperature must be at least 0"),
            _check(tf, top_k >= 0, "top_k must be at least 0"),
            _check(tf, (top_p > 0) & (top_p <= 1), "top_p must be more than 0 and at most 1"),
        ]
        with tf.control_dependencies(checks):
            padding = T - prompt_lengths
        columns = (tf.range(T)[None] - padding[:, None]) % T
        prompts = tf.gather(token_ids, columns, batch_dims=1)
        tokens = tf.pad(prompts, [[0, 0], [0, max_new_tokens]])
        numbers = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": tf.constant(0.0),
            "seed": seed,
            "start": T,
            "min_new_tokens": tf.constant(0),
            "vocab_size": tf.constant(min(vocab_size, tokenizer.vocab_size)),
            "end_ids": tf.constant(end_ids),
        }
        done = tf.zeros_like(padding, tf.bool)
        state = {"step_state": stepper.start(tokens, padding, T)}
        index, tokens, _, _ = decode(
            stepper, ALL_SETTINGS, T, tokens, done, state, padding, T + max_new_tokens, numbers
        )
        new = tokens[:, T:index]
        before_end = tf.math.cumprod(tf.cast(tf.reduce_all(new[..., None] != numbers["end_ids"], -1), tf.int32), axis=1)
        return {"token_ids": new * before_end, "lengths": tf.reduce_sum(before_end, axis=1)}

    return generate_ids


def _checks(tf, token_ids, length, vocab_size, context):
    checks = [
        _check(tf, token_ids >= 0, "token_ids must not be negative"),
        _check(tf, token_ids < vocab_size, f"token_ids must be less than {vocab_size}, the size of the vocabulary"),
    ]
    if context is not None:
        checks.append(_check(tf, length <= context, f"the text would be longer than the model's {context} tokens"))
    return checks


def _check(tf, condition, message):
    return tf.debugging.Assert(tf.reduce_all(condition), [message])
