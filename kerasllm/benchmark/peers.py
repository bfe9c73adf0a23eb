"""What is measured of others, KerasHub and Hugging Face: programs that do the same work as those of kerasllm.

torch runs on the CPU, so where TensorFlow finds a GPU its figures say nothing.
"""

from kerasllm.benchmark.programs import documents_and_tokenizer, fitting, random_ids


def train_keras_hub(model, batch_size, context, dtype, jit_compile, steps=10):
    import keras

    causal_lm = _keras_hub_gpt2(model, context, dtype)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    causal_lm.compile(keras.optimizers.AdamW(1e-3, global_clipnorm=1.0), loss, jit_compile=jit_compile)
    return fitting(causal_lm, _with_padding_mask, batch_size, context, model["vocab_size"], steps)


def generate_keras_hub(model, batch_size, prompt_length, new_tokens):
    import numpy as np

    length = prompt_length + new_tokens
    causal_lm = _keras_hub_gpt2(model, length, "float32")
    causal_lm.compile(sampler="greedy", jit_compile=True)
    prompts = random_ids(batch_size, prompt_length, model["vocab_size"])
    inputs = {
        "token_ids": np.pad(prompts, ((0, 0), (0, new_tokens))),
        "padding_mask": np.tile(np.arange(length) < prompt_length, (batch_size, 1)),
    }

    def generate():
        causal_lm.generate(inputs, stop_token_ids=None)

    generate()
    return generate, batch_size * new_tokens


def tokenize_keras_hub(num_bytes=2_000_000, vocab_size=4000):
    """The same vocabulary in KerasHub's in-graph tokenizer, mapped as its own pipelines map it."""
    import json

    import tensorflow as tf
    from keras_nlp.tokenizers import BytePairTokenizer

    documents, tokenizer = documents_and_tokenizer(num_bytes, vocab_size)
    model = json.loads(tokenizer.engine.to_str())["model"]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    theirs = BytePairTokenizer(model["vocab"], merges)
    dataset = (
        tf.data.Dataset.from_tensor_slices(documents).batch(64).map(theirs, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    )

    def tokenize():
        for _ in dataset:
            pass

    return tokenize, num_bytes


def tokenize_datasets(num_bytes=2_000_000, vocab_size=4000):
    """The same vocabulary in `tokenizers`, mapped by Hugging Face's `datasets` as its own guides map it."""
    import datasets

    documents, tokenizer = documents_and_tokenizer(num_bytes, vocab_size)
    dataset = datasets.Dataset.from_dict({"text": documents})
    datasets.disable_caching()  # or the second time it would read what it wrote the first time
    datasets.disable_progress_bars()

    def encoded(batch):
        return {"input_ids": [encoding.ids for encoding in tokenizer.engine.encode_batch(batch["text"])]}

    return lambda: dataset.map(encoded, batched=True, remove_columns=["text"]), num_bytes


def pack_trl(num_bytes=8_000_000, vocab_size=4000, context=1024, batch_size=8):
    """TRL's best-fit packing, which cuts long documents as kerasllm's does, and its batches as arrays."""
    import datasets
    import trl

    documents, tokenizer = documents_and_tokenizer(num_bytes, vocab_size)
    ids = [[*ids, tokenizer.end_id] for ids in tokenizer.encode_batch(documents)]
    dataset = datasets.Dataset.from_dict({"input_ids": ids})
    datasets.disable_caching()
    datasets.disable_progress_bars()

    def pack():
        packed = trl.pack_dataset(dataset, context, "bfd_split")
        for _ in packed.with_format("numpy").iter(batch_size):
            pass

    return pack, sum(map(len, ids))


def train_transformers(model, batch_size, context, dtype, steps=10):
    import torch

    gpt2 = _transformers_gpt2(model, context)
    optimizer = torch.optim.AdamW(gpt2.parameters(), lr=1e-3, fused=True)
    ids = torch.from_numpy(random_ids(batch_size, context, model["vocab_size"])).long()

    def train(steps):
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "mixed_bfloat16"):
                loss = gpt2(ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(gpt2.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    train(2)
    return lambda: train(steps), steps * batch_size * context


def generate_transformers(model, batch_size, prompt_length, new_tokens):
    import torch

    gpt2 = _transformers_gpt2(model, prompt_length + new_tokens).eval()
    ids = torch.from_numpy(random_ids(batch_size, prompt_length, model["vocab_size"])).long()

    def generate():
        with torch.inference_mode():
            gpt2.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
            )

    generate()
    return generate, batch_size * new_tokens


def _keras_hub_gpt2(model, context, dtype):
    from keras_nlp.models import GPT2Backbone, GPT2CausalLM

    backbone = GPT2Backbone(
        vocabulary_size=model["vocab_size"],
        num_layers=model["num_layers"],
        num_heads=model["num_heads"],
        hidden_dim=model["d_model"],
        intermediate_dim=model["dff"],
        dropout=0.0,
        max_sequence_length=context,
        dtype=dtype,
    )
    return GPT2CausalLM(backbone, preprocessor=None)


def _transformers_gpt2(model, context):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=model["vocab_size"],
        n_layer=model["num_layers"],
        n_embd=model["d_model"],
        n_head=model["num_heads"],
        n_inner=model["dff"],
        n_positions=context,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config)


def _with_padding_mask(ids):
    import numpy as np

    return {"token_ids": ids, "padding_mask": np.ones_like(ids, dtype=bool)}
