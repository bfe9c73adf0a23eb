"""A real model on a phone's runtime: LiteRT-LM's own runner, of what `kerasllm export --to litert` writes."""

import os
import tempfile


def generate_litert_lm(model, prompt_length, new_tokens, quantize=None):
    """LiteRT-LM, one text at a time, on the processor.

    Args:
        model: a folder that `kerasllm.load` reads, or settings of Llama's architecture.
        prompt_length: int, of a text in letters. Where a tokenizer is not one of bytes, it has fewer tokens.
        new_tokens: int.
        quantize: see `kerasllm.export.litert`.
    """
    import litert_lm

    import kerasllm
    from kerasllm.benchmark.served import loaded

    text = ("the cat sat on the mat and " * prompt_length)[:prompt_length]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.litertlm"
        context = prompt_length + new_tokens
        kerasllm.export.litert(*loaded(model, context), file, quantize, context=context)
        engine = litert_lm.Engine(file, backend=litert_lm.Backend.CPU(thread_count=os.cpu_count()))
    greedy = litert_lm.SamplerConfig(top_k=1)

    def generate():
        session = engine.create_session(
            apply_prompt_template=False, sampler_config=greedy, max_output_tokens=new_tokens
        )
        with session:
            session.run_prefill([text])
            session.run_decode()

    generate()
    return generate, new_tokens
