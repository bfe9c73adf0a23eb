"""GPT-2 as torch's users write it: modules, fused attention, one cross-entropy over all logits.

Shapes: B batch, T time, D d_model, H heads, h head_dim.
"""

from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))

    def forward(self, x):
        B, T, D = x.shape
        parts = self.query_key_value(self.attention_norm(x)).view(B, T, 3, self.heads, D // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(read.transpose(1, 2).reshape(B, T, D))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """From ids (B, T) and the labels of each to their mean cross-entropy.

    Args:
        config: TransformerConfig.
    """

    def __init__(self, config):
        super().__init__()
        D = config.d_model
        self.tokens, self.places = nn.Embedding(config.vocab_size, D), nn.Embedding(config.max_length, D)
        self.blocks = nn.ModuleList(Block(D, config.num_heads, config.dff) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(D)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids, labels):
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
