"""What models make of whole texts, many at a time."""

import numpy as np
from keras import ops

from kerasllm.generation.loop import NOT_FINITE
from kerasllm.tokenizers.cutting import encode_whole

_WIDTH = 16  # of which the lengths of rows are multiples, so that shapes are few


def answers_to(model, tokenizer, texts, width, max_length, batch_size):
    """What a model from ids (B, T) to (B, width) makes of texts; those of like length go together.

    Args:
        model, tokenizer: they belong together.
        texts: list of str, or of pairs of them.
        width: int.
        max_length: int, to how many tokens they are cut.
        batch_size: int, texts at once.

    Returns:
        float32 (N, width).

    Raises:
        ValueError: if the model makes what is not finite.
    """
    rows, types, _ = encode_whole(tokenizer, texts, max_length)
    has_types = types is not None and bool(model.config.num_token_types)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    answers = np.zeros((len(rows), width), "float32")
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        longest = min(-(-len(rows[batch[-1]]) // _WIDTH) * _WIDTH, max_length)
        ids = np.full((batch_size, longest), tokenizer.pad_id or 0, "int32")
        is_real = np.zeros((batch_size, longest), "int32")
        is_real[:, 0] = 1  # in rows that are left, too
        inputs = {"token_ids": ids, "document_ids": is_real}
        for place, i in enumerate(batch):
            ids[place, : len(rows[i])], is_real[place, : len(rows[i])] = rows[i], 1
        if has_types:
            inputs["token_type_ids"] = np.zeros_like(ids)
            for place, i in enumerate(batch):
                inputs["token_type_ids"][place, : len(rows[i])] = types[i]
        found = model.predict_on_batch(inputs)
        answers[batch] = ops.convert_to_numpy(ops.cast(found, "float32"))[: len(batch)]
    if not np.isfinite(answers).all():
        raise ValueError(NOT_FINITE)
    return answers
