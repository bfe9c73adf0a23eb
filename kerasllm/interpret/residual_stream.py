"""The residual stream of a model: where it passes, and what is made of it at its end.

Shapes: B batch, T time, D d_model, V vocab.
"""

from typing import NamedTuple

from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM


class Place(NamedTuple):
    """A place of the residual stream.

    Attributes:
        name: str, "embedding", "block_0/before_feed_forward", "block_0/output" and so on, of the layers in their order.
        tap: str, what `activations` calls it.
    """

    name: str
    tap: str


def main_transformer(model):
    """The `layers.Transformer` whose residual stream becomes logits of tokens.

    Raises:
        TypeError: for a model without logits of tokens.
    """
    if not isinstance(model, CausalLM | MaskedLM | Seq2SeqLM):
        raise TypeError(
            f"This looks at models with logits of tokens, a CausalLM, MaskedLM or Seq2SeqLM, got a "
            f"{type(model).__name__}."
        )
    return model.decoder if isinstance(model, Seq2SeqLM) else model.transformer


def layers_of(transformer):
    """Yields each layer as a pair: its block, and what `activations` puts behind the names of its taps, which is
    something where an earlier layer had the same block."""
    passed = {}
    for block in transformer.blocks:
        passed[block.name] = number = passed.get(block.name, -1) + 1
        yield block, f":{number}" if number else ""


def places(transformer):
    """All places of a residual stream, a list of `Place`, in order."""
    found = [Place("embedding", f"{transformer.name}/embedding")]
    for i, (block, end) in enumerate(layers_of(transformer)):
        inside = ["output"] if block.parallel else ["before_feed_forward", "output"]
        if block.cross_attention is not None:
            inside.insert(0, "after_attention")
        found += [Place(f"block_{i}/{name}", f"{transformer.name}/{block.name}/{name}{end}") for name in inside]
    return found


def logits_at(model, x):
    """What a model would say if its residual stream were at its end already: float (B, T, D) -> (B, T, V).

    Of the last place these are the model's logits.
    """
    final_norm = main_transformer(model).final_norm
    x = x if final_norm is None else final_norm(x)
    return model.logits(model.head(x) if isinstance(model, MaskedLM) else x)
