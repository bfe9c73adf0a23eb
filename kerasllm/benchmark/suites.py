"""Which programs are measured side by side: the suites of `kerasllm bench`.

In a case all programs do the same work; the first of them is what the others are held against.
"""

from kerasllm.benchmark import model_suites
from kerasllm.benchmark.cases import Case, Program, Suite
from kerasllm.models import TransformerConfig

MODEL = {"num_layers": 6, "d_model": 384, "num_heads": 6, "dff": 1536, "vocab_size": 65}
WIDE_VOCABULARY = {"num_layers": 4, "d_model": 256, "num_heads": 4, "dff": 1024, "vocab_size": 50257}
LONG_CONTEXT = {"num_layers": 4, "d_model": 256, "num_heads": 4, "dff": 1024, "vocab_size": 65}
SEEING = {"num_layers": 4, "d_model": 256, "num_heads": 4, "dff": 1024, "vocab_size": 8000}
CONTEXT_TOKENS = 8192  # in a batch, whatever the context
PROMPT, NEW_TOKENS = 64, 192


def _training(model, batch_size, context, dtype, *ours, steps=5):
    """All that can train a model of GPT-2's architecture, so many steps a turn; `ours` are (label, settings) of
    kerasllm."""
    shape = {"model": model, "batch_size": batch_size, "context": context, "dtype": dtype, "steps": steps}
    return [
        *(Program(label, "train_kerasllm", {**shape, **settings}) for label, settings in ours),
        Program("KerasHub, graph", "train_keras_hub", {**shape, "jit_compile": False}, ("keras_nlp",)),
        Program("KerasHub, XLA", "train_keras_hub", {**shape, "jit_compile": True}, ("keras_nlp",)),
        Program("transformers, torch", "train_transformers", shape, ("torch", "transformers")),
    ]


def _train():
    flops_per_token = TransformerConfig.preset("gpt2", **MODEL).flops_per_token(256)
    cases = [
        Case(
            dtype,
            _training(MODEL, 16, 256, dtype, ("kerasllm", {})),
            Program("matmul peak", "matmul_peak", {"dtype": dtype}),
            flops_per_token,
        )
        for dtype in ("float32", "mixed_bfloat16")
    ]
    return Suite("Training GPT-2's architecture, 6 layers, d_model 384, 16 x 256 tokens", "tokens", cases)


def _generate():
    def programs(batch_size, new_tokens):
        shape = {"model": {**MODEL, "vocab_size": 300}, "batch_size": batch_size}
        shape |= {"prompt_length": PROMPT, "new_tokens": new_tokens}
        return [
            Program("kerasllm", "generate_kerasllm", shape),
            Program("kerasllm, bfloat16 weights", "generate_kerasllm", {**shape, "dtype": "bfloat16"}),
            Program("its SavedModel", "generate_served", shape),
            Program("KerasHub, XLA", "generate_keras_hub", shape, ("keras_nlp",)),
            Program("transformers, torch", "generate_transformers", shape, ("torch", "transformers")),
        ]

    cases = [Case(f"batch {batch_size}", programs(batch_size, NEW_TOKENS)) for batch_size in (1, 8)]
    cases.append(Case("the first token, batch 1", programs(1, 1)))
    return Suite(f"Generating {NEW_TOKENS} tokens after {PROMPT}", "tokens", cases)


def _memory():
    ours = [
        ("kerasllm, chunks and remat", {"chunk_size": 256, "remat": "block"}),
        ("kerasllm, chunks", {"chunk_size": 256}),
        ("kerasllm", {}),
    ]
    cases = [
        Case(dtype, _training(WIDE_VOCABULARY, 8, 256, dtype, *ours, steps=2))
        for dtype in ("float32", "mixed_bfloat16")
    ]
    return Suite("Training with a vocabulary of 50,257, 4 layers, d_model 256, 8 x 256 tokens", "tokens", cases)


def _context():
    cases = [
        Case(
            f"context {context:,}, {dtype}",
            _training(LONG_CONTEXT, CONTEXT_TOKENS // context, context, dtype, ("kerasllm", {}), steps=2),
            together=context < 4096,
        )
        for dtype, contexts in (("float32", (1024, 2048, 4096, 8192)), ("mixed_bfloat16", (4096, 8192)))
        for context in contexts
    ]
    return Suite(f"Training as the context grows, 4 layers, d_model 256, {CONTEXT_TOKENS:,} tokens", "tokens", cases)


def _prefill():
    def programs(length):
        shape = {"model": {**LONG_CONTEXT, "vocab_size": 300}, "batch_size": 1, "prompt_length": length}
        shape["new_tokens"] = 1
        return [
            Program("kerasllm", "generate_kerasllm", shape),
            Program("KerasHub, XLA", "generate_keras_hub", shape, ("keras_nlp",)),
            Program("transformers, torch", "generate_transformers", shape, ("torch", "transformers")),
        ]

    cases = [Case(f"{length:,} tokens", programs(length), together=False) for length in (4096, 8192)]
    return Suite("The first token after a long prompt, 4 layers, d_model 256", "prompts", cases)


def _window():
    def programs(texts, length):
        shape = {"model": {**MODEL, "vocab_size": 300, "positions": "rotary"}, "batch_size": texts, "length": length}
        return [
            Program(f"layers that see {window or 'all'}", "decode_kerasllm", {**shape, "window": window})
            for window in (256, None)
        ]

    cases = [Case(f"8 texts of {length:,}", programs(8, length)) for length in (1024, 8192)]
    return Suite("Decoding with sliding windows, 6 layers, d_model 384", "tokens", cases)


def _images():
    shape = {"sizes": SEEING, "batch_size": 8, "length": 64, "image_size": 112, "patch_size": 14}

    def programs(dtype):
        settings = {**shape, "dtype": dtype}
        return [
            Program("kerasllm", "train_images_kerasllm", settings),
            Program("KerasHub, graph", "train_images_keras_hub", {**settings, "jit_compile": False}, ("keras_hub",)),
            Program("KerasHub, XLA", "train_images_keras_hub", {**settings, "jit_compile": True}, ("keras_hub",)),
        ]

    reading = [
        Program(label, "train_image_files", {**shape, "dtype": "float32", "in_memory": in_memory}, ("PIL",))
        for label, in_memory in (("kerasllm, JPEG files", False), ("the same batches in memory", True))
    ]
    cases = [Case(dtype, programs(dtype)) for dtype in ("float32", "mixed_bfloat16")]
    cases.append(Case("reading files", reading))
    title = "Training PaliGemma's architecture, 4 layers and 4 of its encoder, d_model 256, 8 x (64 patches, 64 tokens)"
    return Suite(title, "tokens", cases)


def _data():
    tokenizing = [
        Program("kerasllm", "tokenize_kerasllm", {}),
        Program("datasets with tokenizers", "tokenize_datasets", {}, ("datasets",)),
        Program("KerasHub, in tf.data", "tokenize_keras_hub", {}, ("keras_nlp",)),
    ]
    packing = [
        Program("kerasllm", "pack_kerasllm", {}),
        Program("TRL's packing, datasets", "pack_trl", {}, ("datasets", "trl")),
    ]
    training = [
        Program("packed", "train_on_documents", {"packed": True}),
        Program("padded", "train_on_documents", {"packed": False}),
    ]
    cases = [
        Case("bytes, tokenizing", tokenizing),
        Case("tokens, packing", packing),
        Case("tokens, training on short texts", training),
    ]
    return Suite("From text to batches", "bytes or tokens", cases)


def _startup():
    programs = [
        Program("kerasllm", "start", {"package": "kerasllm"}),
        Program("KerasHub", "start", {"package": "keras_hub"}, ("keras_nlp",)),
        Program("transformers, torch", "start", {"package": "transformers"}, ("torch", "transformers")),
    ]
    return Suite("From starting Python to the end of the first training step", "starts", [Case("cold", programs)])


SUITES = {
    "train": _train(),
    "generate": _generate(),
    "memory": _memory(),
    "context": _context(),
    "prefill": _prefill(),
    "window": _window(),
    "images": _images(),
    **{name: suite() for name, suite in model_suites.SUITES.items()},
    "data": _data(),
    "startup": _startup(),
}
