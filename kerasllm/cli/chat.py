"""`kerasllm chat`: messages in, a line for each, answers out as they are made."""

import sys

from kerasllm.cli.filter_files import make_filter
from kerasllm.cli.generate import drawing_options, print_pieces
from kerasllm.cli.shown_files import processor_of, shown_part
from kerasllm.cli.startup import start_keras
from kerasllm.tasks import other_task

_SHOW = "/image "


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
    sees = isinstance(model, kerasllm.models.VisionLanguageModel)
    if arguments.image:
        drawing["processor"] = processor_of(model, arguments)
    waiting = [shown_part(file, arguments) for file in arguments.image or ()]  # for the next message
    has_shown, conversation = False, kerasllm.generation.Conversation(model)
    messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
    for line in _lines():
        if sees and line.startswith(_SHOW):
            try:
                drawing["processor"] = processor_of(model, arguments)
                waiting.append(shown_part(line.removeprefix(_SHOW).strip(), arguments))
            except (ImportError, OSError, ValueError) as error:
                print(error, file=sys.stderr, flush=True)
            continue
        messages.append({"role": "user", "content": [*waiting, {"type": "text", "text": line}] if waiting else line})
        has_shown, waiting = has_shown or bool(waiting), []
        keeps = not (has_shown or getattr(model, "sees_prompts_whole", False))  # what was read, for the next turn
        options = {"shorten": arguments.shorten, "prefix": conversation if keeps else None, **drawing}
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
