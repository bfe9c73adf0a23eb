"""The losses of a fixed small training, per family of layers, as they were recorded: any change of the numbers shows.

`KERASLLM_RECORD=1 pytest -s -n0 tests/test_golden_losses.py` prints what to record, where a change is meant.
"""

import os

import keras
import numpy as np
import pytest

from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig, presets

SIZES = {"vocab_size": 23, "num_layers": 2, "d_model": 16, "num_heads": 4, "dff": 24, "max_length": 16, "dropout": 0.0}
FAMILIES = {
    "GPT-2": (CausalLM, presets.GPT2),
    "Llama": (CausalLM, {**presets.LLAMA, "num_kv_heads": 2}),
    "PaLM": (CausalLM, {**presets.PALM, "head_dim": 4}),
    "Gemma 2": (CausalLM, {**presets.GEMMA_2, "num_kv_heads": 2, "attention_window": (4, None)}),
    "T5": (Seq2SeqLM, presets.T5),
    "BERT": (MaskedLM, presets.BERT),
}
LOSSES = {
    "GPT-2": [3.351467, 3.051969, 2.812115, 2.585175, 2.316192],
    "Llama": [3.482207, 3.012248, 2.50955, 2.246809, 1.894503],
    "PaLM": [3.456404, 2.907837, 2.487183, 2.217432, 1.962487],
    "Gemma 2": [3.416441, 2.885788, 2.387864, 2.091394, 1.806532],
    "T5": [3.085373, 2.771397, 2.553416, 2.34306, 2.101697],
    "BERT": [3.456633, 3.060805, 2.863603, 2.704137, 2.527771],
}


def losses_of(family):
    """Five steps of SGD from weights of NumPy's, on rows of uneven lengths."""
    model_class, options = FAMILIES[family]
    model = model_class(TransformerConfig(**{**options, **SIZES}))
    draw = np.random.default_rng(0)
    model.set_weights([(w.ndim == 1) * w + draw.normal(scale=0.2, size=w.shape) for w in model.get_weights()])
    ids, labels = draw.integers(1, 23, (2, 3, 12))
    weight = (np.arange(12) < np.array([[12], [7], [3]])).astype("float32")
    inputs = {"source_ids": ids[:, :9], "target_ids": ids} if model_class is Seq2SeqLM else ids
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), run_eagerly=True)
    losses = []
    for _ in range(5):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(inputs, labels, weight, return_dict=True)["loss"]))
    return losses


@pytest.mark.parametrize("family", FAMILIES)
def test_the_losses_are_those_that_were_recorded(family):
    found = losses_of(family)
    if os.environ.get("KERASLLM_RECORD"):
        print(f"\n    {family!r}: {[round(loss, 6) for loss in found]},")
    else:
        assert found == pytest.approx(LOSSES[family], abs=2e-5)
