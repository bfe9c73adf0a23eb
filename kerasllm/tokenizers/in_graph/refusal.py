"""How a tokenizer that the graph cannot reproduce is turned down."""


def refuse(part, found, known):
    """Raises ValueError.

    Args:
        part: str, the part of the tokenizer.
        found: what it is.
        known: str, what it may be.
    """
    raise ValueError(
        f"This tokenizer cannot run inside a TensorFlow graph: its {part} is {found!r}, and the graph knows {known}. "
        f"What takes token ids can be exported without it: export.saved_model(…, text=False), or kerasllm export --ids."
    )
