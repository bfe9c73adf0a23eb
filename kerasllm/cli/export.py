"""`kerasllm export`: a SavedModel, read back and held against the model it was made from."""

import os
import shlex

from kerasllm.cli.startup import start_keras

TEXT = "The"


def run(arguments):
    os.environ["KERAS_BACKEND"] = "tensorflow"  # A run folder knows no backend, and a SavedModel is TensorFlow's.
    start_keras()
    import kerasllm
    from kerasllm.cli import report

    model, tokenizer = kerasllm.load(arguments.run)
    kerasllm.export.saved_model(model, tokenizer, arguments.folder)
    difference = check(model, tokenizer, arguments.folder)
    report.stage(
        f"{arguments.folder} takes text and returns text, with the model's own tokens and logits (largest difference "
        f"{difference:.1e})"
    )
    report.next_commands(f"saved_model_cli show --dir {shlex.quote(arguments.folder)} --all")


def check(model, tokenizer, folder):
    """Reads a SavedModel back and compares its signatures with the model and the tokenizer.

    Args:
        model: the `kerasllm.models.CausalLM` that was exported.
        tokenizer: its tokenizer.
        folder: path of the SavedModel.

    Returns:
        The largest difference between the logits of `forward` and the model's, a float.

    Raises:
        ValueError: if the logits differ by more than rounding; if, in float32, `generate_ids` gives other tokens than
            `kerasllm.generation.generate_ids`; or if `generate` gives another text than those tokens are.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    from kerasllm.generation import generate_ids
    from kerasllm.generation.text import continuation, encode_prompt

    signatures = tf.saved_model.load(str(folder)).signatures
    length = min(16, model.config.max_length // 2)
    ids = 7 * np.arange(1, length + 1, dtype="int32")[None] % tokenizer.vocab_size
    logits = signatures["forward"](token_ids=tf.constant(ids))["logits"]
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model(ids, training=False), "float32"))
    difference = float(np.max(np.abs(logits - expected)))

    prompt = encode_prompt(tokenizer, TEXT)
    length = min(16, model.config.max_length - len(prompt))
    settings = {"max_new_tokens": length, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    settings = {name: tf.constant(value) for name, value in settings.items()}
    made = signatures["generate_ids"](token_ids=[prompt], prompt_lengths=tf.constant([len(prompt)]), **settings)
    tokens = made["token_ids"][0, : int(made["lengths"][0])].numpy().tolist()
    end_ids = [] if tokenizer.end_id is None else [tokenizer.end_id]
    expected = generate_ids(model, [prompt], length, end_ids=end_ids, vocab_size=tokenizer.vocab_size)[0]
    rounded = model.compute_dtype != "float32"  # Near-ties may then fall either way, and everything after them.
    if difference > (0.25 if rounded else 1e-3) or (tokens != expected and not rounded):
        raise ValueError(
            f"The SavedModel in {folder} does not do what the model does: its logits differ by up to {difference:.2g}, "
            f"and it continues with the tokens {tokens}, not {expected}."
        )
    text = signatures["generate"](text=tf.constant([TEXT]), **settings)["text"][0].numpy().decode()
    if text != continuation(tokenizer, prompt, tokens):
        raise ValueError(
            f"The SavedModel in {folder} does not read or write text as the tokenizer does: it continues {TEXT!r} with "
            f"{text!r}, where its own tokens {tokens} are {continuation(tokenizer, prompt, tokens)!r}."
        )
    return difference
