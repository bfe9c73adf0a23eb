"""`kerasllm export`: a SavedModel, read back and held against the model it was made from."""

import shlex

from kerasllm.cli.startup import start_keras


def run(arguments):
    start_keras()
    import kerasllm
    from kerasllm.cli import report

    model, tokenizer = kerasllm.load(arguments.run)
    kerasllm.export.saved_model(model, tokenizer, arguments.folder)
    difference = check(model, tokenizer, arguments.folder)
    report.stage(f"{arguments.folder} gives the model's own logits (largest difference {difference:.1e}) and tokens")
    report.next_commands(f"saved_model_cli show --dir {shlex.quote(arguments.folder)} --all")


def check(model, tokenizer, folder):
    """Reads a SavedModel back and compares its signatures with the model.

    Args:
        model: the `kerasllm.models.CausalLM` that was exported.
        tokenizer: its tokenizer.
        folder: path of the SavedModel.

    Returns:
        The largest difference between the logits of `forward` and the model's, a float.

    Raises:
        ValueError: if the logits differ by more than rounding, or, in float32, `generate_ids` gives other tokens than
            `kerasllm.generation.generate_ids`.
    """
    import numpy as np
    import tensorflow as tf

    from kerasllm.generation import generate_ids

    signatures = tf.saved_model.load(str(folder)).signatures
    length = min(16, model.config.max_length // 2)
    ids = 7 * np.arange(1, length + 1, dtype="int32")[None] % tokenizer.vocab_size
    logits = signatures["forward"](token_ids=tf.constant(ids))["logits"]
    difference = float(np.max(np.abs(logits - tf.cast(model(ids, training=False), "float32"))))
    made = signatures["generate_ids"](
        token_ids=tf.constant(ids),
        prompt_lengths=tf.constant([length]),
        max_new_tokens=tf.constant(length),
        temperature=tf.constant(0.0),
        top_k=tf.constant(0),
        top_p=tf.constant(1.0),
        seed=tf.constant(0),
    )
    tokens = made["token_ids"][0, : int(made["lengths"][0])].numpy().tolist()
    end_ids = [] if tokenizer.end_id is None else [tokenizer.end_id]
    expected = generate_ids(model, ids.tolist(), length, end_ids=end_ids, vocab_size=tokenizer.vocab_size)[0]
    rounded = model.compute_dtype != "float32"  # Near-ties may then fall either way, and everything after them.
    if difference > (0.25 if rounded else 1e-3) or (tokens != expected and not rounded):
        raise ValueError(
            f"The SavedModel in {folder} does not do what the model does: its logits differ by up to {difference:.2g}, "
            f"and it continues with the tokens {tokens}, not {expected}."
        )
    return difference
