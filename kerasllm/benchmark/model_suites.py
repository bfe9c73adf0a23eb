"""Suites of one model at its real size, which a user may name: `kerasllm bench SUITE --model FOLDER`."""

from kerasllm.benchmark.cases import Case, Program, Suite

# SmolLM2-135M's, with 8 of its 30 layers.
TUNED = {
    "num_layers": 8,
    "d_model": 576,
    "num_heads": 9,
    "num_kv_heads": 3,
    "dff": 1536,
    "vocab_size": 49152,
    "tie_embeddings": True,
}
SMOLLM2 = {**TUNED, "num_layers": 30}  # SmolLM2-135M's, whole.
PROMPT = 64
_LITERT = ("litert_lm", "litert_lm_builder", "litert_quantizer")


def tuning(model=TUNED, data=None):
    """The suite of adapters beside whole models.

    Args:
        model: a folder that `kerasllm.load` reads, and transformers where it is compared; or settings of Llama's
            architecture.
        data: files of conversations, for the tokenizer of that folder; made-up ones when absent.
    """

    shape = {"model": model, "data": data, "context": 256, "tokens": 512, "dtype": "float32", "steps": 4}
    lora, on_torch = {**shape, "adapter": "lora"}, ("torch", "transformers", "peft", "trl")
    programs = [
        Program("kerasllm, LoRA", "tune_kerasllm", lora),
        Program("kerasllm, QLoRA", "tune_kerasllm", {**lora, "quantize": "nf4"}),
        Program("kerasllm, whole", "tune_kerasllm", shape),
        Program("TRL with PEFT, LoRA", "tune_transformers", lora, on_torch),
        Program("the same, packing=True", "tune_transformers", {**lora, "packed": True}, on_torch),
        Program("TRL, whole", "tune_transformers", shape, on_torch),
    ]
    cases = [Case("float32", programs, together=False)]
    what = model if isinstance(model, str) else "Llama's architecture, 8 layers, d_model 576, vocabulary 49,152"
    return Suite(f"Tuning {what} on conversations, about 512 tokens a step, LoRA of rank 16", "tokens", cases)


def real(model=None):
    """The suite of generation at the size of SmolLM2-135M.

    Args:
        model: a path that `kerasllm.load` reads, of a folder that transformers reads too where it is compared, or of a
            GGUF file; random weights without llama.cpp when absent.
    """
    weights = model or SMOLLM2
    is_file = bool(model) and model.endswith(".gguf")
    on_torch = ("torch", "transformers", *(("gguf", "accelerate") if is_file else ()))

    def ours(label, shape, **settings):
        return Program(label, "generate_real_kerasllm", {**shape, **settings})

    def case(bits, batch_size, *programs, llama_cpp=()):
        shape = {"model": weights, "batch_size": batch_size, "prompt_length": 16, "new_tokens": 112}
        all_programs = [ours(label, shape, **settings) for label, settings in programs]
        if bits in (16, 32):
            dtype = "float32" if bits == 32 else "bfloat16"
            settings = {**shape, "dtype": dtype}
            all_programs.append(Program("transformers, torch", "generate_real_transformers", settings, on_torch))
        for label, dtype in llama_cpp if model else ():
            settings = {**shape, "dtype": dtype}
            all_programs.append(Program(label, "generate_real_llama_cpp", settings, ("xllamacpp", "gguf")))
        if bits < 16:
            all_programs.append(_litert_lm(f"int{int(bits)}", weights, 16, 112))
        limit = Program("memory", "read_limit", {"model": weights, "bits": bits}) if batch_size == 1 else None
        name = {32: "float32", 16: "bfloat16", 8: "8 bits", 4.5: "4 bits"}[bits]
        return Case(f"batch {batch_size}, {name}", all_programs, limit)

    in_float, in_8, in_4 = ("kerasllm", {}), ("kerasllm, int8", {"quantize": "int8"}), {"quantize": "int4"}
    as_it_is = [("llama.cpp, the file as it is", None)] if is_file else []
    cases = [
        case(32, 1, in_float),
        case(16, 1, ("kerasllm", {"dtype": "bfloat16"})),
        case(8, 1, in_8, ("kerasllm, float32", {}), llama_cpp=[("llama.cpp, Q8_0", "Q8_0")]),
        case(
            4.5,
            1,
            ("kerasllm, int4", in_4),
            ("kerasllm, NF4", {"quantize": "nf4"}),
            ("kerasllm, float32", {}),
            llama_cpp=as_it_is,
        ),
        case(32, 8, in_float),
    ]
    what = model or "Llama's architecture, 30 layers, d_model 576, vocabulary 49,152"
    return Suite(f"Generating 112 tokens after 16 with {what}", "tokens", cases)


def served(model=SMOLLM2):
    """The suite of SavedModels; `model` is a folder that `kerasllm.load` reads, or settings of Llama's architecture."""

    def programs(batch_size, quantize=None):
        shape = {"model": model, "batch_size": batch_size, "prompt_length": PROMPT, "new_tokens": PROMPT}
        shape["quantize"] = quantize
        return [
            Program("kerasllm", "generate_in_python", shape),
            Program("its SavedModel, compiled", "generate_exported", {**shape, "compiled": True}),
            Program("its SavedModel, a plain graph", "generate_exported", shape),
        ]

    cases = [Case(f"batch {batch_size}", programs(batch_size)) for batch_size in (1, 8)]
    cases.append(Case("batch 1, int8", programs(1, "int8")))
    return Suite(f"Serving {_named(model)}: {PROMPT} tokens after {PROMPT}", "tokens", cases)


def edge(model=SMOLLM2):
    """The suite of LiteRT; `model` is that of `served`."""
    shape = {"model": model, "prompt_length": PROMPT, "new_tokens": PROMPT}
    programs = [
        Program("kerasllm", "generate_in_python", {**shape, "batch_size": 1}),
        *(_litert_lm(kind, **shape) for kind in (None, "int8", "int4")),
    ]
    return Suite(f"At the edge, {_named(model)}: {PROMPT} tokens after {PROMPT}", "tokens", [Case("batch 1", programs)])


def _litert_lm(kind, model, prompt_length, new_tokens):
    settings = {"model": model, "prompt_length": prompt_length, "new_tokens": new_tokens, "quantize": kind}
    return Program(f"LiteRT-LM, {kind or 'float32'}", "generate_litert_lm", settings, _LITERT)


def first_answer(model=None):
    """The suite of first answers.

    Args:
        model: a folder that `kerasllm.load` and transformers read; without one, what is compiled is measured alone.
    """

    def chats(new_tokens):
        shape = {"model": model, "new_tokens": new_tokens}
        return [
            Program("kerasllm", "answer_first", {**shape, "package": "kerasllm"}),
            Program(
                "transformers, torch",
                "answer_first",
                {**shape, "package": "transformers"},
                ("torch", "transformers"),
            ),
        ]

    def compiling(**settings):
        return [
            Program(f"{num_layers} layers", "compile_layers", {"model": TUNED, "num_layers": num_layers, **settings})
            for num_layers in (12, 48)
        ]

    cases = [Case(f"answers of {n} token{'s' * (n > 1)} in a new process", chats(n)) for n in (1, 32) if model]
    cases += [
        Case("compiling, batch 1", compiling(batch_size=1), together=False),
        Case("compiling, batch 4", compiling(batch_size=4), together=False),
    ]
    return Suite("The first answer", "answers", cases)


def _named(model):
    return model if isinstance(model, str) else "SmolLM2-135M's architecture"


SUITES = {"tune": tuning, "real": real, "served": served, "edge": edge, "first-answer": first_answer}
