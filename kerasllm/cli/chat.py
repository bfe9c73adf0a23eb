"""`kerasllm chat`: messages in, a line for each, answers out as they are made."""

import sys

from kerasllm.cli.filter_files import make_filter
from kerasllm.cli.generate import drawing_options, print_pieces
from kerasllm.cli.startup import start_keras
from kerasllm.tasks import other_task


def run(arguments):
    drawing = drawing_options(arguments)
    start_keras()
    import kerasllm

    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    if other_task(model, function="generate"):
        raise TypeError(f"A causal model chats, and {arguments.model} holds a {type(model).__name__}.")
    if tokenizer.chat_template is None:
        raise ValueError(
            f"The tokenizer in {arguments.model} has no chat template: its model was not trained to chat. `kerasllm "
            "generate` continues a text."
        )
    drawing["filter"] = make_filter(drawing.get("filter"))
    conversation = kerasllm.generation.Conversation(model)
    messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
    for line in _lines():
        messages.append({"role": "user", "content": line})
        options = {"shorten": arguments.shorten, "prefix": conversation, **drawing}
        pieces = kerasllm.stream_chat(model, tokenizer, messages, **options)
        messages.append({"role": "assistant", "content": print_pieces(pieces)})


def _lines():
    """The lines of standard input that are not blank, each asked for where a person types them."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.removesuffix("\n")
