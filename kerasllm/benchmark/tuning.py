"""Tuning on conversations, here and by TRL with PEFT on torch: the same texts, and as many tokens in a step.

Activations are computed again in the backward pass, as TRL does unless it is told otherwise. Only tokens of texts
count, no padding.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time

WARM_UP = 2  # steps that compile, or fill caches


def tune_kerasllm(model, data, context, tokens, dtype, steps, adapter=None, quantize=None):
    """As `kerasllm tune` trains: conversations packed into windows, and the loss in chunks.

    Args:
        model: a folder, or settings of Llama's architecture.
        data: files of conversations, or None for made-up ones.
        context, tokens: int, of a window and of a step.
        adapter: str, or None for the whole model.
        quantize: str or None.
    """
    import kerasllm

    language_model, tokenizer = _loaded(model, context, dtype, quantize)
    language_model.remat = "block"
    if adapter:
        kerasllm.adapters.add(language_model, kind=adapter)
    language_model.compile(
        kerasllm.optimizers.AdamW(1e-4, weight_decay=0.0), kerasllm.losses.TokenCrossentropy(chunk_size=128)
    )
    batches = _packed(_conversations(model, data), tokenizer, context, tokens // context)
    timed = batches.skip(WARM_UP).take(steps).cache()
    count = sum(int((inputs["document_ids"] > 0).numpy().sum()) for inputs, *_ in timed)
    language_model.fit(batches.take(WARM_UP), shuffle=False, verbose=0)
    return lambda: language_model.fit(timed, shuffle=False, verbose=0), count


def tune_transformers(model, data, context, tokens, dtype, steps, adapter=None, packed=False):
    """TRL's trainer with its own settings but for the rate; the arguments are those of `tune_kerasllm`."""
    import datasets
    import peft
    import transformers
    import trl

    llama, tokenizer = _on_torch(model)
    texts = _conversations(model, data)
    rows = [{"input_ids": [*ids], "completion_mask": [*map(int, learned)]} for ids, learned in texts]
    rows_per_step = tokens // context if packed else round(tokens * len(texts) / sum(len(ids) for ids, _ in texts))
    times, counts = [], []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        settings = trl.SFTConfig(
            folder,
            per_device_train_batch_size=rows_per_step,
            max_steps=WARM_UP + steps,
            max_length=context,
            packing=packed,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            bf16=dtype == "mixed_bfloat16",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        with contextlib.redirect_stdout(nowhere):
            trainer = trl.SFTTrainer(
                llama,
                settings,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=tokenizer,
                peft_config=lora if adapter else None,
                callbacks=[Clock()],
            )
        collate = trainer.data_collator

        def counted(examples):
            counts.append(sum(len(example["input_ids"]) for example in examples))
            return collate(examples)

        trainer.data_collator = counted

    def train():
        trainer.train()
        return sum(counts[WARM_UP : WARM_UP + steps]) / (times[-1] - times[WARM_UP - 1])

    return train, None


def _loaded(model, context, dtype, quantize):
    """A model and its tokenizer."""
    import kerasllm
    from kerasllm.models import CausalLM, TransformerConfig
    from kerasllm.tokenizers.training import make_byte

    if isinstance(model, str):
        return kerasllm.load(model, dtype, quantize)
    language_model = CausalLM(TransformerConfig.preset("llama", **model, max_length=context), dtype=dtype)
    if quantize:
        kerasllm.quantization.quantize(language_model, quantize)
    return language_model, kerasllm.tokenizers.Tokenizer(make_byte(256, ()))  # asked for its padding alone


def _on_torch(model):
    import transformers

    if isinstance(model, str):
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        return transformers.AutoModelForCausalLM.from_pretrained(model, dtype="float32"), tokenizer
    config = transformers.LlamaConfig(
        vocab_size=model["vocab_size"],
        num_hidden_layers=model["num_layers"],
        hidden_size=model["d_model"],
        num_attention_heads=model["num_heads"],
        num_key_value_heads=model["num_kv_heads"],
        intermediate_size=model["dff"],
        tie_word_embeddings=model["tie_embeddings"],
    )
    return transformers.LlamaForCausalLM(config), _any_tokenizer()


def _any_tokenizer():
    """What the trainer wants to have, though all is in ids already."""
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"end": 0}, unk_token="end"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="end", pad_token="end")


def _packed(texts, tokenizer, context, batch_size):
    """Batches of windows, as `kerasllm.data.chat_dataset` makes them."""
    import numpy as np

    from kerasllm.data.chat_windows import Stream, batches_of

    ids, learned = (np.concatenate([np.array(text[i]) for text in texts]) for i in (0, 1))
    ends = np.cumsum([len(text) for text, _ in texts])
    stream = Stream(ids.astype("int32"), learned.astype(bool), ends, np.arange(len(texts)))
    return batches_of(stream, tokenizer, context, batch_size, epochs=10)


def _conversations(model, data):
    """Pairs (ids, which of them are of answers): lists of int and of bool."""
    if data is not None:  # by another process, as what it takes is not of training
        command = [sys.executable, "-m", "kerasllm.benchmark.tuning", model, *data]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    import numpy as np

    draw, texts = np.random.default_rng(0), []
    for _ in range(600):
        question, answer = draw.integers(20, 60), draw.integers(10, 40)
        ids = draw.integers(1, model["vocab_size"], question + answer).tolist()
        texts.append((ids, [False] * question + [True] * answer))
    return texts


def _print_conversations(folder, *data):
    import kerasllm

    _, tokenizer = kerasllm.load(folder)
    texts = [tokenizer.encode_chat_with_mask(chat) for chat in kerasllm.data.read_chats(data)]
    print(json.dumps([[list(map(int, ids)), list(map(bool, learned))] for ids, learned in texts]))


if __name__ == "__main__":
    _print_conversations(*sys.argv[1:])
