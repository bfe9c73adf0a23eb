"""Options of `generate` that are rules over logits: each becomes one of those that `rules` gives."""

import functools

from kerasllm.generation.rules import read_rules
from kerasllm.generation.sequence_bias import read_biases
from kerasllm.generation.watermarks import read_watermark
from kerasllm.models.shapes import output_width


def with_rules(options, model, tokenizer, num_prompts):
    """Options in which those that are rules have been added to `rules`.

    Args:
        options: dict.
        num_prompts: int, how many prompts are continued.
    """
    options = dict(options)
    added = []
    if biases := options.pop("bias", None):
        encode = functools.partial(_bare_ids, tokenizer)
        added.append(read_biases(biases, encode))
    if (watermark := options.pop("watermark", None)) is not None:
        added.append(read_watermark(watermark).fitted(output_width(model), tokenizer.vocab_size))
    return {**options, "rules": (*read_rules(options.get("rules", ()), num_prompts), *added)} if added else options


def _bare_ids(tokenizer, text):
    return next(iter(tokenizer.encode_stream([text], bare=True))).tolist()
