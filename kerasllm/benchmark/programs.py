"""What is measured of kerasllm, and what all programs share.

A program prepares itself, compilation included, and returns a function to be timed with the number of units, such as
tokens, that a call works off; or None with it, where the function returns a rate itself. Batches are random ids, as
speed does not depend on them. `measuring.py` runs programs.
"""

import functools
import itertools
import subprocess
import sys
import tempfile


def train_kerasllm(model, batch_size, context, dtype, chunk_size=None, remat=None, steps=10):
    from kerasllm.losses import TokenCrossentropy
    from kerasllm.optimizers import AdamW

    language_model = _causal_lm({**model, "remat": remat}, context, dtype)
    language_model.compile(AdamW(1e-3), TokenCrossentropy(chunk_size=chunk_size))
    return fitting(language_model, lambda ids: ids, batch_size, context, model["vocab_size"], steps)


def generate_kerasllm(model, batch_size, prompt_length, new_tokens, dtype="float32"):
    from kerasllm.generation import generate_ids

    language_model = _causal_lm(model, prompt_length + new_tokens, dtype)
    prompts = random_ids(batch_size, prompt_length, model["vocab_size"]).tolist()

    def generate():
        generate_ids(language_model, prompts, new_tokens)

    generate()
    return generate, batch_size * new_tokens


def decode_kerasllm(model, batch_size, length, window=None, steps=16):
    """A few steps with a cache for texts of that length."""
    from kerasllm.generation.decoding import Decoding

    language_model = _causal_lm({**model, "attention_window": window}, length, "float32")
    prompts = [{"token_ids": ids} for ids in random_ids(batch_size, 64, model["vocab_size"]).tolist()]

    def start():
        decoding = Decoding(language_model, prompts, length - 64)
        decoding.run(1)
        return decoding

    decoding = start()

    def decode():
        nonlocal decoding
        if not decoding.run(steps):
            decoding = start()

    decode()
    return decode, batch_size * steps


def generate_served(model, batch_size, prompt_length, new_tokens):
    """The loop in a SavedModel: a plain graph, as servers without XLA run it."""
    import tensorflow as tf

    import kerasllm
    from kerasllm.tokenizers.training import make_byte

    tokenizer = kerasllm.tokenizers.Tokenizer(make_byte(model["vocab_size"], ()))  # without an end: no row ends early
    language_model = _causal_lm(model, prompt_length + new_tokens, "float32")
    with tempfile.TemporaryDirectory() as folder:
        kerasllm.export.saved_model(language_model, tokenizer, f"{folder}/model")
        loaded = tf.saved_model.load(f"{folder}/model")
    settings = {"max_new_tokens": new_tokens, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    inputs = {name: tf.constant(value) for name, value in settings.items()}
    inputs["token_ids"] = random_ids(batch_size, prompt_length, tokenizer.vocab_size)
    inputs["prompt_lengths"] = tf.fill([batch_size], prompt_length)

    def generate():
        loaded.signatures["generate_ids"](**inputs)

    generate()
    return generate, batch_size * new_tokens


def tokenize_kerasllm(num_bytes=2_000_000, vocab_size=4000):
    """From strings to ids, with byte-level BPE."""
    documents, tokenizer = documents_and_tokenizer(num_bytes, vocab_size)

    def tokenize():
        for _ in tokenizer.encode_stream(documents):
            pass

    return tokenize, num_bytes


def pack_kerasllm(num_bytes=8_000_000, vocab_size=4000, context=1024, batch_size=8):
    """From token files to the batches of an epoch: which documents share a window, and where their tokens are."""
    from kerasllm.data import causal_lm_dataset, write_tokens

    documents, tokenizer = documents_and_tokenizer(num_bytes, vocab_size)
    folder = tempfile.TemporaryDirectory(prefix="kerasllm-pack-")
    tokens = write_tokens(documents, tokenizer, f"{folder.name}/tokens", progress=False)

    def pack():
        for _ in causal_lm_dataset(f"{folder.name}/tokens", tokenizer, context, batch_size, packed=True):
            pass

    return pack, tokens.num_tokens


def train_on_documents(packed, steps=10, batch_size=16, context=256):
    """The same short documents, packed into full windows or padded, one in a row; only real tokens count."""
    import numpy as np
    import tensorflow as tf

    from kerasllm.data import causal_lm_dataset
    from kerasllm.optimizers import AdamW

    documents, tokenizer = documents_and_tokenizer(400_000, 2000)
    words = [document.split() for document in documents]
    short = [" ".join(some[i : i + 40]) for some in words for i in range(0, len(some), 40)]
    if packed:
        dataset = causal_lm_dataset(short, tokenizer, context, batch_size, packed=True)
    else:
        rows = np.zeros((steps * batch_size, context + 1), "int32")
        weight = np.zeros((len(rows), context), "float32")
        for i, ids in enumerate(tokenizer.encode_batch(short[: len(rows)])):
            ids = [*ids, tokenizer.end_id][: context + 1]
            rows[i, : len(ids)], weight[i, : len(ids) - 1] = ids, 1.0
        dataset = tf.data.Dataset.from_tensor_slices((rows[:, :-1], rows[:, 1:], weight)).batch(batch_size)
    dataset = dataset.take(steps).cache()
    real = sum(int(weight.numpy().sum()) for *_, weight in dataset)

    model = {"num_layers": 4, "d_model": 128, "num_heads": 4, "dff": 512, "vocab_size": tokenizer.vocab_size}
    language_model = _causal_lm(model, context, "float32")
    language_model.compile(AdamW(1e-3))

    def train():
        language_model.fit(dataset, shuffle=False, verbose=0)

    train()
    return train, real


def matmul_peak(dtype):
    """How many floating point operations a second a large product of matrices reaches."""
    from kerasllm.callbacks import measure_matmul_peak

    return functools.partial(measure_matmul_peak, dtype.removeprefix("mixed_")), None


# What a user types first, in a new Python. The last line is reached when a step has been trained.
_STARTS = {
    "kerasllm": """
import numpy as np, kerasllm
config = kerasllm.models.TransformerConfig.preset("gpt2", vocab_size=65, num_layers=2, d_model=64, num_heads=2, dff=256)
model = kerasllm.models.CausalLM(config)
model.compile()
ids = np.ones((4, 65), "int32")
model.fit(ids[:, :-1], ids[:, 1:], verbose=0)
""",
    "keras_hub": """
import numpy as np, keras_nlp
backbone = keras_nlp.models.GPT2Backbone(65, 2, 2, 64, 256, max_sequence_length=1024)
model = keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)
ids = np.ones((4, 65), "int32")
model.fit({"token_ids": ids[:, :-1], "padding_mask": np.ones((4, 64), bool)}, ids[:, 1:], verbose=0)
""",
    "transformers": """
import torch, transformers
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=65, n_layer=2, n_embd=64, n_head=2))
optimizer = torch.optim.AdamW(model.parameters())
ids = torch.ones((4, 64), dtype=torch.long)
model(ids, labels=ids).loss.backward()
optimizer.step()
""",
}


def start(package):
    def run():
        subprocess.run([sys.executable, "-c", _STARTS[package]], check=True, stdout=subprocess.DEVNULL)

    return run, 1


def fitting(model, as_inputs, batch_size, context, vocab_size, steps):
    """`fit` on the same windows for every Keras program."""
    ids = random_ids(batch_size, context + 1, vocab_size)
    return fitting_batch(model, (as_inputs(ids[:, :-1]), ids[:, 1:]), steps), steps * batch_size * context


def fitting_batch(model, batch, steps):
    """So many steps of `fit` on one batch; the first, which compile, are not timed."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False  # Its thread would delay the end of `fit`, up to doubling what is timed.
    dataset = tf.data.Dataset.from_tensors(batch).repeat().with_options(options)

    def fit(steps):
        model.fit(dataset, steps_per_epoch=steps, shuffle=False, verbose=0)

    fit(2)
    return lambda: fit(steps)


def random_ids(batch_size, length, vocab_size):
    import numpy as np

    return np.random.default_rng(0).integers(0, vocab_size, (batch_size, length), dtype="int32")


def _causal_lm(model, context, dtype):
    from kerasllm.models import CausalLM, TransformerConfig

    return CausalLM(TransformerConfig.preset("gpt2", **model, max_length=context, dropout=0.0), dtype=dtype)


def documents_and_tokenizer(num_bytes, vocab_size):
    from kerasllm.benchmark.corpus import synthetic_documents
    from kerasllm.tokenizers import Tokenizer

    documents = list(synthetic_documents(num_bytes))
    sample = itertools.islice(documents, 0, None, max(1, num_bytes // 10**6))
    return documents, Tokenizer.train(sample, vocab_size=vocab_size, kind="bpe", progress=False)
