"""A real model where it is served: Python's loop beside its SavedModels, the plain and the compiled one."""

import tempfile


def generate_in_python(model, batch_size, prompt_length, new_tokens):
    """`kerasllm.generate`'s loop.

    Args:
        model: a folder that `kerasllm.load` reads, or settings of Llama's architecture.
        batch_size, prompt_length, new_tokens: int.
    """
    from kerasllm.generation import generate_ids

    language_model, _ = loaded(model, prompt_length + new_tokens)
    prompts = _prompts(batch_size, prompt_length).tolist()

    def generate():
        generate_ids(language_model, prompts, new_tokens)

    generate()
    return generate, batch_size * new_tokens


def generate_exported(model, batch_size, prompt_length, new_tokens, compiled=False):
    """A SavedModel, loaded by TensorFlow alone; the arguments are those of `generate_in_python`."""
    import tensorflow as tf

    import kerasllm

    with tempfile.TemporaryDirectory() as folder:
        exported = f"{folder}/model"
        kerasllm.export.saved_model(*loaded(model, prompt_length + new_tokens), exported, text=False, compiled=compiled)
        served = tf.saved_model.load(exported)
    settings = {"max_new_tokens": new_tokens, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    inputs = {name: tf.constant(value) for name, value in settings.items()}
    inputs["token_ids"] = _prompts(batch_size, prompt_length)
    inputs["prompt_lengths"] = tf.fill([batch_size], prompt_length)

    def generate():
        served.signatures["generate_ids"](**inputs)

    generate()
    return generate, batch_size * new_tokens


def loaded(model, context):
    """A model and a tokenizer whose texts have no end, so that all programs write as many tokens."""
    import kerasllm
    from kerasllm.models import CausalLM, TransformerConfig
    from kerasllm.tokenizers.training import make_byte

    if isinstance(model, str):
        language_model, tokenizer = kerasllm.load(model)
        tokenizer.end_ids = []
        return language_model, tokenizer
    config = TransformerConfig.preset("llama", **model, max_length=context)
    return CausalLM(config), kerasllm.tokenizers.Tokenizer(make_byte(256, ()))


def _prompts(batch_size, prompt_length):
    from kerasllm.benchmark.programs import random_ids

    return random_ids(batch_size, prompt_length, 256)
