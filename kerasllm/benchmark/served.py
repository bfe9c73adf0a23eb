"""A real model where it is served: Python's loop beside its SavedModels, the plain and the compiled one."""

import tempfile


def generate_in_python(model, batch_size, prompt_length, new_tokens, quantize=None):
    """`kerasllm.generate`'s loop.

    Args:
        model: a folder that `kerasllm.load` reads, or settings of Llama's architecture.
        batch_size, prompt_length, new_tokens: int.
        quantize: str or None.
    """
    from kerasllm.generation import generate_ids
    from kerasllm.generation.tiers import impatient

    language_model, _ = loaded(model, prompt_length + new_tokens, quantize)
    prompts = _prompts(batch_size, prompt_length).tolist()

    def generate():
        generate_ids(language_model, prompts, new_tokens)

    with impatient():  # as in a process that has written for a while
        generate()
    return generate, batch_size * new_tokens


def generate_exported(model, batch_size, prompt_length, new_tokens, quantize=None, compiled=False):
    """A SavedModel, loaded by TensorFlow alone; the arguments are those of `generate_in_python`."""
    import tensorflow as tf

    import kerasllm

    with tempfile.TemporaryDirectory() as folder:
        exported = f"{folder}/model"
        whole = loaded(model, prompt_length + new_tokens, quantize)
        kerasllm.export.saved_model(*whole, exported, text=False, compiled=compiled)
        served = tf.saved_model.load(exported)
    settings = {"max_new_tokens": new_tokens, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    inputs = {name: tf.constant(value) for name, value in settings.items()}
    inputs["token_ids"] = _prompts(batch_size, prompt_length)
    inputs["prompt_lengths"] = tf.fill([batch_size], prompt_length)

    def generate():
        served.signatures["generate_ids"](**inputs)

    generate()
    return generate, batch_size * new_tokens


def loaded(model, context, quantize=None):
    """A model and a tokenizer whose texts have no end, so that all programs write as many tokens."""
    from kerasllm.benchmark.tuning import _loaded

    language_model, tokenizer = _loaded(model, context, "float32", quantize)
    tokenizer.end_ids = []
    return language_model, tokenizer


def _prompts(batch_size, prompt_length):
    from kerasllm.benchmark.programs import random_ids

    return random_ids(batch_size, prompt_length, 256)
