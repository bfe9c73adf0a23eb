"""Options of a Transformer block, which a stack and a model's config take too."""

import dataclasses

from kerasllm.layers.attention_options import AttentionOptions
from kerasllm.layers.feed_forward import FeedForwardOptions
from kerasllm.layers.normalization import NormOptions
from kerasllm.layers.options import check_choice

NORM_PLACEMENTS = ("pre", "post", "sandwich", "output")
REMAT = (None, "block", "attention", "feed_forward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockOptions(AttentionOptions, FeedForwardOptions, NormOptions):
    """How attention and feed-forward stand together; theirs, and those of norms, are among them.

    Args:
        norm_placement: "pre" normalises what enters a sublayer (https://arxiv.org/abs/2002.04745), "output" what it
            adds to the residual stream, as OLMo 2 does (https://arxiv.org/abs/2501.00656), "sandwich" both, as Gemma 2
            does (https://arxiv.org/abs/2408.00118); "post" normalises the sum, as the original Transformer did.
        parallel: bool. Attention and feed-forward read the same input and are added together, as in PaLM
            (https://arxiv.org/abs/2204.02311). Only with "pre" and without a context.
        shared_norm: bool. A parallel block has one norm for both; False: one for each, as in GPT-NeoX
            (https://arxiv.org/abs/2204.06745).
        skip_attention_norm: bool. Attention reads the residual stream as it is, as in the first block of ModernBERT
            (https://arxiv.org/abs/2412.13663), whose input is normalised already. Only with "pre", and not in parallel.
        use_bias: bool, biases in projections and layer norms.
        attention_bias: bool or None, biases in the projections of attention; None means `use_bias`.
        dropout: float, in training, on what each sublayer adds.
        attention_dropout: float or None, in training, on attention probabilities; None means `dropout`.
        remat: what training computes again in the backward pass in place of keeping it: the whole "block", its
            "attention", its "feed_forward", or None, nothing. Saves memory and takes time; the numbers stay the same,
            dropout included (https://arxiv.org/abs/1604.06174).
    """

    norm_placement: str = "pre"
    parallel: bool = False
    shared_norm: bool = True
    skip_attention_norm: bool = False
    use_bias: bool = True
    attention_bias: bool | None = None
    dropout: float = 0.0
    attention_dropout: float | None = None
    remat: str | None = None

    def check(self, d_model=None, num_heads=None):
        super().check(d_model, num_heads)
        check_choice("norm_placement", self.norm_placement, NORM_PLACEMENTS)
        check_choice("remat", self.remat, REMAT)
        if self.parallel and self.norm_placement != "pre":
            raise ValueError(f"A parallel block needs norm_placement='pre', got {self.norm_placement!r}.")
        if self.skip_attention_norm and (self.parallel or self.norm_placement != "pre"):
            got = f"{self.norm_placement!r} and {self.parallel}"
            raise ValueError(f"`skip_attention_norm` needs norm_placement='pre' and parallel=False, got {got}.")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise ValueError(f"`{name}` must be at least 0 and less than 1, got {getattr(self, name)!r}.")

    def block_parameters(self, d_model, num_heads, dff, cross_attention=False):
        """The number of weights of a block."""
        bias = self.use_bias if self.attention_bias is None else self.attention_bias
        attention = self.attention_parameters(d_model, num_heads, bias, self.norm_scale)
        norm = self.norm_parameters(d_model, self.use_bias) * (2 if self.norm_placement == "sandwich" else 1)
        norms = norm * (1 if self.parallel and self.shared_norm else 2 + cross_attention - self.skip_attention_norm)
        return attention * (1 + cross_attention) + self.feed_forward_parameters(d_model, dff, self.use_bias) + norms
