"""Generation at the size that users bring: kerasllm, transformers on torch and llama.cpp, with the same weights.

Every token reads every weight, so the machine's memory sets the limit.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time

from kerasllm.benchmark.programs import random_ids
from kerasllm.benchmark.tuning import _loaded, _on_torch

_COPIED = 2**26  # floats, far more than caches hold


def generate_real_kerasllm(model, batch_size, prompt_length, new_tokens, dtype="float32", quantize=None):
    """Greedy tokens.

    Args:
        model: a path that `kerasllm.load` reads, or settings of Llama's architecture.
        batch_size, prompt_length, new_tokens: int.
        dtype: str.
        quantize: str or None.
    """
    from kerasllm.generation import generate_ids
    from kerasllm.generation.tiers import impatient

    language_model, _ = _loaded(model, prompt_length + new_tokens, dtype, quantize)
    prompts = random_ids(batch_size, prompt_length, language_model.config.vocab_size).tolist()

    def generate():
        generate_ids(language_model, prompts, new_tokens)

    with impatient():  # as in a process that has written for a while
        generate()
    return generate, batch_size * new_tokens


def generate_real_transformers(model, batch_size, prompt_length, new_tokens, dtype="float32"):
    import torch

    llama = _torch_model(model).to(getattr(torch, dtype)).eval()
    ids = torch.from_numpy(random_ids(batch_size, prompt_length, llama.config.vocab_size)).long()
    settings = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}

    def generate():
        with torch.inference_mode():
            llama.generate(ids, attention_mask=torch.ones_like(ids), **settings)

    generate()
    return generate, batch_size * new_tokens


def _torch_model(model):
    if not isinstance(model, str) or not model.endswith(".gguf"):
        return _on_torch(model)[0]
    import transformers

    folder, name = os.path.split(model)
    return transformers.AutoModelForCausalLM.from_pretrained(folder or ".", gguf_file=name)


def generate_real_llama_cpp(model, batch_size, prompt_length, new_tokens, dtype=None):
    """By its server, which is handed the prompts at once; the arguments are those of `generate_real_kerasllm`.

    Args:
        dtype: str, what `kerasllm.gguf.save` writes the model in; None for a GGUF file as it is.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.n_parallel, settings.n_ctx = batch_size, batch_size * 2 * (prompt_length + new_tokens)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = os.cpu_count()
    with tempfile.TemporaryDirectory() as folder:
        settings.model.path = model if dtype is None else f"{folder}/model.gguf"
        if dtype is not None:  # by another process, whose memory is its own
            subprocess.run(
                [sys.executable, "-m", "kerasllm.benchmark.real", model, settings.model.path, dtype], check=True
            )
        server = xllamacpp.Server(settings)
    bodies = [
        {"prompt": prompt, "n_predict": new_tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        for prompt in random_ids(batch_size, prompt_length, 10_000).tolist()
    ]

    def generate():
        threads = [threading.Thread(target=server.handle_completions, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    generate()
    return generate, batch_size * new_tokens


def read_limit(model, bits):
    """How many times a second all weights could be read, in so many bits each: by as many bytes as a copy by all cores
    moves."""
    import numpy as np

    parameters = _loaded(model, 64, "float32", None)[0].count_params()
    source, target = np.ones(_COPIED, "float32"), np.zeros(_COPIED, "float32")
    parts = np.linspace(0, _COPIED, os.cpu_count() + 1).astype(int)

    def copy():
        threads = [
            threading.Thread(target=np.copyto, args=(target[first:last], source[first:last]))
            for first, last in itertools.pairwise(parts)
        ]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (source.nbytes + target.nbytes) / (time.perf_counter() - begin)

    return lambda: max(copy() for _ in range(5)) / (parameters * bits / 8), None


def _write_gguf(path, to, dtype):
    import kerasllm

    kerasllm.gguf.save(*kerasllm.load(path), to, dtype)


if __name__ == "__main__":
    _write_gguf(*sys.argv[1:])
