"""Writes tests/fixtures/written_before: what a release wrote, with the logits and texts that it gave.

    python tests/record_written_before.py FOLDER

tests/test_written_before.py reads it with the code of today. (A SavedModel holds its own computations, so TensorFlow
alone runs it, whatever becomes of the package.)
"""

import shutil
import sys
from pathlib import Path

import keras
import numpy as np

import kerasllm
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM, TransformerConfig

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. "
PROMPT = "the dog"
SIZES = {"num_layers": 2, "d_model": 16, "num_heads": 2, "dff": 24, "max_length": 32}
# Options of every layer, so that each is read from each kind of file.
MODELS = {
    "gpt": (CausalLM, {"positions": "learned", "activation": "gelu_tanh"}),
    "llama": (
        CausalLM,
        {
            "norm": "rms", "norm_epsilon": 1e-6, "activation": "silu", "gated": True, "use_bias": False,
            "num_kv_heads": 1, "qkv_bias": True, "tie_embeddings": False, "attention_window": (4, None),
            "rope_theta": (1e4, 1e5),
        },
    ),
    "palm": (CausalLM, {"parallel": True, "gated": True, "use_bias": False, "qk_norm": True, "head_dim": 4}),
    "bert": (MaskedLM, {"positions": "learned", "norm_placement": "post", "embedding_norm": True}),
    "t5": (
        Seq2SeqLM,
        {
            "positions": "relative", "norm": "rms", "norm_epsilon": 1e-6, "activation": "relu", "use_bias": False,
            "attention_scale": 1.0, "num_encoder_layers": 2,
        },
    ),
}  # fmt: skip
HUGGING_FACE = ("gpt", "bert", "t5")


def inputs_of(model, ids):
    return {"source_ids": ids, "target_ids": ids} if isinstance(model, Seq2SeqLM) else ids


def documented_example(vocab_size):
    """The model of the first page, with parts of the package in Keras' own model."""
    return keras.Sequential(
        [
            keras.layers.Embedding(vocab_size, 8),
            kerasllm.layers.Transformer(2, 16, 2, 24, rope_theta=(1e4, 1e3), gated=True, norm_placement="sandwich"),
            keras.layers.Dense(vocab_size),
        ]
    )


def answers(model, tokenizer):
    """What a model gives: logits of one text, and a greedy text of those that write."""
    ids = np.array([tokenizer.encode(TEXT)[:24]])
    results = {"logits": np.asarray(model(inputs_of(model, ids)))}
    if isinstance(model, Seq2SeqLM):
        results["text"] = kerasllm.translate(model, tokenizer, PROMPT, max_new_tokens=12)
    elif not isinstance(model, MaskedLM):
        results["text"] = kerasllm.generate(model, tokenizer, PROMPT, max_new_tokens=12)
    return results


def main(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = kerasllm.tokenizers.Tokenizer.train([TEXT], kind="char", progress=False)
    recorded = {}
    for seed, (name, (kind, options)) in enumerate(MODELS.items()):
        keras.utils.set_random_seed(seed)
        model = kind(TransformerConfig(tokenizer.vocab_size, **SIZES, **options))
        for weight in model.weights:
            weight.assign(np.random.normal(0, 0.3, weight.shape) + ("norm" in weight.path))
        kerasllm.save(model, tokenizer, folder / name / "run")
        model.save(folder / name / "model.keras")
        if name in HUGGING_FACE:
            kerasllm.huggingface.save(model, tokenizer, folder / name / "hf")
        recorded |= {f"{name}/{what}": value for what, value in answers(model, tokenizer).items()}
    keras.utils.set_random_seed(9)
    example = documented_example(tokenizer.vocab_size)
    recorded |= {f"example/{what}": value for what, value in answers(example, tokenizer).items()}
    (folder / "example").mkdir()
    example.save(folder / "example" / "model.keras")
    np.savez_compressed(folder / "answers.npz", **recorded)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
