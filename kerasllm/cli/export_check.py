"""Whether a SavedModel does what the model does that it was made from: the same logits, and the same text."""

import keras
import numpy as np
import tensorflow as tf

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.generation.settings import rule_options
from kerasllm.generation.text import encode_prompt
from kerasllm.generation.text_stream import continuation
from kerasllm.models import MaskedLM, Seq2SeqLM

TEXT = "The"
MOST_TOKENS = 16  # read and written


def check(model, tokenizer, folder):
    """Reads a SavedModel back and compares its signatures with the model and the tokenizer.

    Args:
        model: the model that was exported.
        tokenizer: its tokenizer, or a pair of them.
        folder: path of the SavedModel.

    Returns:
        The largest difference between the logits of `forward` and the model's, a float.

    Raises:
        ValueError: if the logits differ by more than rounding, or, in float32, the tokens or texts; or if a causal
            model's text is another than its tokens are.
    """
    signatures = tf.saved_model.load(str(folder)).signatures
    is_rounded = model.compute_dtype != "float32"  # Near-ties may then fall either way, and everything after them.
    inputs = _inputs(model)
    logits = signatures["forward"](**{name: tf.constant(value) for name, value in inputs.items()})["logits"]
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model(inputs, training=False), "float32"))
    difference = float(np.max(np.abs(logits - expected)))
    if difference > (0.25 if is_rounded else 1e-3):
        raise ValueError(
            f"The SavedModel in {folder} does not do what the model does: its logits differ by up to {difference:.2g}."
        )
    has_text = "serving_default" in signatures
    if not has_text and "generate_ids" not in signatures:
        return difference
    if isinstance(model, Seq2SeqLM):
        made, expected = _translations(model, tokenizer, signatures)
    elif isinstance(model, MaskedLM):
        made, expected = _filled_texts(model, tokenizer, signatures)
    else:
        made, expected = _generated_tokens(model, tokenizer, signatures)
        if has_text:
            _check_spelling(tokenizer, signatures, made, folder)
    if made != expected and not is_rounded:
        raise ValueError(
            f"The SavedModel in {folder} does not do what the model does: of {TEXT!r} it makes {made!r}, not "
            f"{expected!r}."
        )
    return difference


def _inputs(model):
    """What `forward` and the model take: a few ids that every vocabulary has."""
    config = model.config
    length = min(MOST_TOKENS, max(config.max_length // 2, 1))
    ids = 7 * np.arange(1, length + 1, dtype="int32")[None]
    if not isinstance(model, Seq2SeqLM):
        return {"token_ids": ids % config.vocab_size}
    sources = ids % (config.source_vocab_size or config.vocab_size)
    return {"source_ids": sources, "source_mask": np.ones_like(ids, bool), "target_ids": ids % config.vocab_size}


def _generation_settings(length):
    settings = {"max_new_tokens": length, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    return {name: tf.constant(value) for name, value in settings.items()}


def _generated_tokens(model, tokenizer, signatures):
    prompt = encode_prompt(tokenizer, TEXT)
    length = min(MOST_TOKENS, model.config.max_length - len(prompt))
    made = signatures["generate_ids"](
        token_ids=[prompt], prompt_lengths=tf.constant([len(prompt)]), **_generation_settings(length)
    )
    rules = rule_options(model, tokenizer.end_ids)
    expected = generate_ids(
        model, [prompt], length, end_ids=tokenizer.end_ids, vocab_size=tokenizer.vocab_size, **rules
    )[0]
    return made["token_ids"][0, : int(made["lengths"][0])].numpy().tolist(), expected


def _check_spelling(tokenizer, signatures, tokens, folder):
    """Whether `generate` reads and writes text as the tokenizer does."""
    prompt = encode_prompt(tokenizer, TEXT)
    settings = _generation_settings(max(len(tokens), 1))
    text = signatures["generate"](text=tf.constant([TEXT]), **settings)["text"][0].numpy().decode()
    expected = continuation(tokenizer, prompt, tokens)
    if text != expected:
        raise ValueError(
            f"The SavedModel in {folder} does not read or write text as the tokenizer does: it continues {TEXT!r} with "
            f"{text!r}, where its own tokens {tokens} are {expected!r}."
        )


def _translations(model, tokenizer, signatures):
    length = min(MOST_TOKENS, model.config.max_length)
    made = signatures["translate"](
        text=tf.constant([TEXT]),
        num_beams=tf.constant(4),
        length_penalty=tf.constant(1.0),
        max_new_tokens=tf.constant(length),
    )
    expected = kerasllm.translate(model, tokenizer, TEXT, num_beams=4, length_penalty=1.0, max_new_tokens=length)
    return made["text"][0].numpy().decode(), expected


def _filled_texts(model, tokenizer, signatures):
    text = f"{TEXT} {tokenizer.special_tokens['mask']}"
    made = signatures["fill_mask"](text=tf.constant([text]), top_k=tf.constant(3))["token"][0].numpy()
    (expected,) = kerasllm.fill_mask(model, tokenizer, text, top_k=3)
    return [token.decode() for token in made], [token for token, _ in expected]
