"""Options of `generate` that are rules over logits: each becomes one of those that `rules` gives."""

import functools

from kerasllm.generation.buffers import limit_of_new_tokens
from kerasllm.generation.forbidden_words import without_words
from kerasllm.generation.rules import read_rules
from kerasllm.generation.sequence_bias import read_biases
from kerasllm.generation.watermarks import read_watermark
from kerasllm.models.shapes import output_width


def with_rules(options, model, tokenizer, prompts=(), max_new_tokens=None):
    """Options in which those that are rules have been added to `rules`.

    Args:
        options: dict.
        model, tokenizer, prompts, max_new_tokens: see `text.start_decoding`.
    """
    options = dict(options)
    added = []
    if biases := options.pop("bias", None):
        encode = functools.partial(_bare_ids, tokenizer)
        added.append(read_biases(biases, encode))
    if (words := options.pop("forbidden", None)) is not None:
        end_ids = options.get("end_ids", tokenizer.end_ids)
        limit = min(limit_of_new_tokens(model, len(prompt["token_ids"]), max_new_tokens) for prompt in prompts)
        added.append(without_words(words, tokenizer, list(end_ids), output_width(model), limit))
    if (watermark := options.pop("watermark", None)) is not None:
        added.append(read_watermark(watermark).fitted(output_width(model), tokenizer.vocab_size))
    return {**options, "rules": (*read_rules(options.get("rules", ()), len(prompts)), *added)} if added else options


def _bare_ids(tokenizer, text):
    return next(iter(tokenizer.encode_stream([text], bare=True))).tolist()
