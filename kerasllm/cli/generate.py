"""`kerasllm generate`: a model goes on with a prompt, and the text appears as it is made."""

from kerasllm.cli.startup import start_keras

DRAW = ("temperature", "top_k", "top_p", "min_p", "seed")
OPTIONS = ("max_new_tokens", "sampler", "repetition_penalty", "stop", *DRAW)


def run(arguments):
    start_keras()
    import kerasllm

    model, tokenizer = kerasllm.load(arguments.run)
    options = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    if options.keys() & set(DRAW):
        options.setdefault("sampler", "random")
    pieces = kerasllm.stream(model, tokenizer, arguments.prompt, **options)
    print(arguments.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
