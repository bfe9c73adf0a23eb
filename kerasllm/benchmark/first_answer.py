"""How long a first answer takes: from a new Python to the first tokens of a chat, and what of it is compiling."""

import subprocess
import sys
import time

from kerasllm.benchmark.runner import package_environment

# What a user types; the line that it writes is the answer.
_CHATS = {
    "kerasllm": """
import kerasllm
model, tokenizer = kerasllm.load({model!r})
message = {{"role": "user", "content": "What is the capital of France?"}}
ids = tokenizer.encode_chat([message])
print(tokenizer.decode(kerasllm.generation.generate_ids(model, ids, {new_tokens})).split(), flush=True)
""",
    "transformers": """
import transformers
tokenizer = transformers.AutoTokenizer.from_pretrained({model!r})
model = transformers.AutoModelForCausalLM.from_pretrained({model!r}, dtype="float32")
message = {{"role": "user", "content": "What is the capital of France?"}}
prompt = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_tensors="pt", return_dict=True)
length = {new_tokens}
ids = model.generate(**prompt, max_new_tokens=length, min_new_tokens=length, do_sample=False)
print(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :]).split(), flush=True)
""",
}


def answer_first(package, model, new_tokens):
    """A chat of a new process, up to so many new tokens, load included."""
    code = _CHATS[package].format(model=model, new_tokens=new_tokens)

    def chat():
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=package_environment(),
            text=True,
        ) as process:
            line = process.stdout.readline()
            process.kill()
        if not line:
            raise RuntimeError(f"{package} gave no answer.")

    return chat, 1


def compile_layers(model, num_layers, batch_size, sampler="greedy"):
    """The first call of `generate` less the second, of a model of so many layers."""
    from kerasllm.generation import generate_ids
    from kerasllm.models import CausalLM, TransformerConfig

    config = TransformerConfig.preset("llama", **{**model, "num_layers": num_layers}, max_length=256)
    language_model = CausalLM(config, random_weights=False)

    def seconds():
        began = time.perf_counter()
        generate_ids(language_model, [[1, 2, 3]] * batch_size, 8, sampler=sampler)
        return time.perf_counter() - began

    def compile_first():
        return 1 / (seconds() - seconds())

    return compile_first, None
