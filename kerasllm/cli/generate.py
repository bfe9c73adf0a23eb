"""`kerasllm generate`: a model goes on with a prompt, and the text appears as it is made."""

from kerasllm.cli.startup import start_keras

OPTIONS = ("sampler", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")


def run(arguments):
    start_keras()
    import kerasllm

    model, tokenizer = kerasllm.load(arguments.run)
    given = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    pieces = kerasllm.stream(model, tokenizer, arguments.prompt, max_new_tokens=arguments.max_new_tokens, **given)
    # The first piece comes before anything is printed, so that a wrong option gives its sentence alone.
    first = next(iter(pieces), "")
    print(arguments.prompt + first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
