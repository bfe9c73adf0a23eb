"""llama.cpp itself, through the bindings `xllamacpp`: ids of texts, and log-probabilities of the next token."""

import json
import urllib.request

import pytest

xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install kerasllm[parity]")


class LlamaCpp:
    """A server of llama.cpp with a model, computing in float32.

    Args:
        path: path of a GGUF file.
    """

    def __init__(self, path):
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = str(path), 256, 1, False
        settings.cpuparams.n_threads = 1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(settings)

    def encode(self, text, parse_special=False):
        """The ids of a text, with what the model has before it."""
        return self._post("/tokenize", content=text, add_special=True, parse_special=parse_special)["tokens"]

    def log_probabilities(self, ids, count):
        """dict from ids to log-probabilities of the `count` likeliest tokens after these; None where a text ends."""
        body = {"prompt": [int(one) for one in ids], "n_predict": 1, "n_probs": count, "temperature": 0}
        found = self._post("/completion", **body, cache_prompt=False).get("completion_probabilities")
        return found and {token["id"]: token["logprob"] for token in found[0]["top_logprobs"]}

    def chat(self, messages, max_new_tokens):
        """The likeliest answer."""
        body = {"messages": messages, "max_tokens": max_new_tokens, "temperature": 0}
        return self._post("/v1/chat/completions", **body)["choices"][0]["message"]["content"]

    def _post(self, what, **body):
        request = urllib.request.Request(
            self._server.listening_address + what, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
