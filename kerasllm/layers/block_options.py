"""Options of a Transformer block, which a stack and a model's config take too."""

import dataclasses

from kerasllm.layers.attention_options import AttentionOptions, length_of
from kerasllm.layers.dot_product import block_ranges
from kerasllm.layers.experts import ExpertOptions
from kerasllm.layers.normalization import NormOptions
from kerasllm.layers.options import check_choice
from kerasllm.layers.tiles import is_long

NORM_PLACEMENTS = ("pre", "post", "sandwich", "output")
REMAT = (None, "block", "attention", "feed_forward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockOptions(AttentionOptions, ExpertOptions, NormOptions):
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

    def block_parameters(self, d_model, num_heads, dff, cross_attention=False, of_tokens=None):
        """The number of weights of a block, or of those that so many tokens read at most."""
        bias = self.use_bias if self.attention_bias is None else self.attention_bias
        attention = self.attention_parameters(d_model, num_heads, bias, self.norm_scale)
        norm = self.norm_parameters(d_model, self.use_bias) * (2 if self.norm_placement == "sandwich" else 1)
        norms = norm * (1 if self.parallel and self.shared_norm else 2 + cross_attention - self.skip_attention_norm)
        feed_forward = self.feed_forward_parameters(d_model, dff, self.use_bias, of_tokens)
        return attention * (1 + cross_attention) + feed_forward + norms

    def linear_widths(self, d_model, num_heads, dff):
        """Inputs and outputs of all linear layers of a block, added up; those of queries, keys, values and of a gate
        each count as one: what a low-rank adapter has for each of its ranks."""
        h, K = self.head_dim or d_model // num_heads, self.num_kv_heads or num_heads
        attention = 3 * d_model + 2 * num_heads * h + 2 * K * h + d_model
        return attention + (2 if self.gated else 1) * (d_model + dff) + dff + d_model

    def block_kept(self, d_model, num_heads, dff, context, causal=True, bytes_per_number=4):
        """What training keeps of a block for its gradient, in numbers for each token.

        Returns:
            A pair: what is kept from the forward pass on; and what is there besides while the block's gradient is made,
            what `remat` computes again and the gradients that are under way.
        """
        D, own_dropout = d_model, self.dropout if self.attention_dropout is None else self.attention_dropout
        attention = self.attention_kept(D, num_heads, context, causal, own_dropout)
        feed_forward = self.feed_forward_kept(dff)
        sublayers = 1 if self.parallel else 2
        norms = (1 if self.shared_norm else 2) if self.parallel else 2 - self.skip_attention_norm
        between = sublayers + norms + (2 if self.norm_placement == "sandwich" else 0)
        between = D * (between + sublayers * bool(self.dropout) / bytes_per_number)  # a bool is a byte
        under_way = 2 * D + max(feed_forward, 2 * num_heads * self._pairs_at_once(context, causal))
        if self.remat == "block":
            return D, attention + feed_forward + between + 2 * D + under_way
        again = {"attention": attention, "feed_forward": feed_forward}.get(self.remat, 0)
        return attention + feed_forward + between - again, again + under_way

    def _pairs_at_once(self, context, causal):
        """For each token of a context, scores of a head whose gradient is made at the same time."""
        parts = block_ranges(context, context, causal, self.attention_window)
        if is_long(context, context):
            return 0
        return max(length_of(queries, context) * length_of(keys, context) for queries, keys in parts) / context
