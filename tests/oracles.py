"""The Transformer once more, in NumPy's float64: each query picks the keys it may see, one at a time.

Written from the papers, and on purpose unlike the layers: no masks, nothing fused, rotations by complex numbers, T5's
buckets in whole numbers. Options have the layers' names. `w` is a dict of weights by name, as `weights_of` gives it.

Shapes: B batch, T query time, S key time, D d_model, H heads, K key/value heads, h head_dim.
"""

import math

import numpy as np
from keras import ops

from kerasllm.layers import BlockOptions

TRAINING_ONLY = {"dropout", "attention_dropout", "remat"}


def transformer_options(config):
    """What a config says of a `Transformer` besides its four numbers."""
    of_stack = {name: getattr(config, name) for name in ("embedding_size", "num_layer_groups")}
    return {"input_norm": config.embedding_norm, **of_stack, **BlockOptions.of(config)}


def weights_of(layer):
    """A layer's weights by their path below it, such as "query_key_value/kernel"."""
    return {v.path.partition("/")[2]: ops.convert_to_numpy(v).astype("float64") for v in layer.weights}


def scramble(layer, seed=0):
    """Draws weights far from their initial values: no scale is 1, no bias 0, no table small. Returns the layer."""
    rng = np.random.default_rng(seed)
    for v in layer.weights:
        if v.name in ("kernel", "reverse_embeddings"):
            v.assign(rng.normal(0, 1.2 * v.shape[0] ** -0.5, v.shape))
        elif v.name in ("scale", "gamma"):
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif v.name in ("bias", "beta", "embeddings", "output_bias"):
            v.assign(rng.normal(0, 0.7, v.shape))
    return layer


def below(w, name):
    return {path.removeprefix(f"{name}/"): array for path, array in w.items() if path.startswith(f"{name}/")}


def dense(w, x):
    return x @ w["kernel"] + w.get("bias", 0.0)


def normalise(w, x, epsilon=1e-5):
    """Layer normalisation, or RMS normalisation where the weights are a `scale` alone or none."""
    if "gamma" not in w:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * w.get("scale", 1.0)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * w["gamma"] + w.get("beta", 0.0)


ACTIVATIONS = {
    "gelu": np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
}


def feed_forward(w, x, activation="gelu", gated=False):
    inner = dense(below(w, "inner"), x)
    if gated:
        gate, linear = np.split(inner, 2, axis=-1)
        return dense(below(w, "outer"), ACTIVATIONS[activation](gate) * linear)
    return dense(below(w, "outer"), ACTIVATIONS[activation](inner))


def mixture(w, x, activation="gelu", gated=False, experts_per_token=2, normalize_experts=True):
    """A mixture of experts, token by token; and how often each expert is chosen, with its mean probability."""
    scores = np.exp(dense(below(w, "router"), x))
    probabilities, result = scores / scores.sum(-1, keepdims=True), np.zeros_like(x)
    chosen = np.zeros_like(scores)
    for place in np.ndindex(x.shape[:-1]):
        likeliest = np.argsort(-probabilities[place])[:experts_per_token]
        chosen[place][likeliest] = 1
        for e in likeliest:
            of_expert = {name: {"kernel": w[f"{name}_kernels"][e]} for name in ("inner", "outer")}
            for name in of_expert:
                of_expert[name]["bias"] = w[f"{name}_biases"][e] if f"{name}_biases" in w else 0.0
            expert = {f"{name}/{part}": array for name, parts in of_expert.items() for part, array in parts.items()}
            share = probabilities[place][e] / (probabilities[place][likeliest].sum() if normalize_experts else 1)
            result[place] += share * feed_forward(expert, x[place], activation, gated)
    over_tokens = tuple(range(x.ndim - 1))
    return result, (chosen.mean(over_tokens), probabilities.mean(over_tokens))


def rotate(head, position, theta, share=1.0):
    """Channels j and j + n/2 of the first n are one complex number, which turns by the position times a frequency of
    its own; n is that share of the head."""
    half = int(len(head) * share) // 2
    numbers = head[:half] + 1j * head[half : 2 * half]
    turned = numbers * np.exp(1j * position * theta ** (-np.arange(half) / max(half, 1)))
    return np.concatenate([turned.real, turned.imag, head[2 * half :]])


def bucket(distance, causal, buckets=32, max_distance=128):
    """T5's bucket for a key that stands `distance` places before its query."""
    first = 0
    if not causal:
        buckets //= 2
        first = buckets if distance < 0 else 0
    distance = int(max(distance, 0) if causal else abs(distance))
    exact = buckets // 2
    if distance < exact:
        return first + distance
    # The rest of the buckets share log(max_distance / exact) equally; powers of whole numbers say where each begins.
    n = buckets - exact
    begins = [k for k in range(n) if distance**n * exact**k >= max_distance**k * exact**n]
    return first + exact + begins[-1]


def distance_row(distance, buckets, max_distance):
    """The row of DeBERTa's table for a query that stands `distance` places behind its key."""
    middle, places = buckets // 2, abs(distance)
    if places > middle:
        share = math.log(places / middle) / math.log((max_distance - 1) / middle)
        places = middle + math.ceil(share * (middle - 1) - 1e-9)
    return min(max(buckets + (places if distance > 0 else -places), 0), 2 * buckets - 1)


def add_positions(w, x, positions, position_ids):
    """Learned or sinusoidal positions on the input; `position_ids` (B, T)."""
    if positions in ("learned", "learned_relative"):
        return x + w["position_embedding/embeddings"][position_ids]
    if positions == "sinusoidal":
        half = x.shape[-1] // 2
        waves = np.exp(1j * position_ids[..., None] * 10000.0 ** (-np.arange(half) / half))
        return x + np.concatenate([waves.imag, waves.real], axis=-1)
    if positions == "fairseq_sinusoidal":
        angles = (position_ids[..., None] + 2) / np.geomspace(1, 10000, x.shape[-1] // 2)
        return x + np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    return x


def attention(
    w, x, context=None, *, num_heads, num_kv_heads=None, causal=False, attention_window=None, positions=None,
    max_length=None, rope_theta=10000.0, partial_rotary_factor=1.0, rope_scaling=None, qk_norm=False, head_dim=None,
    use_bias=True, qkv_bias=None, attention_bias=None, attention_scale=None, attention_soft_cap=None,
    norm_epsilon=1e-5, mask=None, attention_mask=None, document_ids=None, position_ids=None, position_bias=None,
    relative_bias=None, distances=None,
):  # fmt: skip
    """Attention by its definition: output (B, T, D) and probabilities (B, H, T, S), 0 for a query that sees nothing."""
    assert rope_scaling is None
    B, T, own = *x.shape[:2], context is None
    K = num_kv_heads or num_heads
    position_ids = np.broadcast_to(np.arange(T) if position_ids is None else position_ids, (B, T))
    if own:
        h = w["query_key_value/kernel"].shape[1] // (num_heads + 2 * K)
        query, key, value = np.split(dense(below(w, "query_key_value"), x), [num_heads * h, (num_heads + K) * h], -1)
    else:
        query = dense(below(w, "query"), x)
        key, value = np.split(dense(below(w, "key_value"), context), 2, -1)
        h = key.shape[-1] // K
    S = key.shape[1]
    if qk_norm == "full":
        query = normalise(below(w, "query_norm"), query, norm_epsilon)
        key = normalise(below(w, "key_norm"), key, norm_epsilon)
    query, key, value = query.reshape(B, T, num_heads, h), key.reshape(B, S, K, h), value.reshape(B, S, K, h)
    if qk_norm is True:
        query = normalise(below(w, "query_norm"), query, norm_epsilon)
        key = normalise(below(w, "key_norm"), key, norm_epsilon)

    def with_place(content, part, head, t, s):
        """Its product with what a query (part 0) or a key (part 1) of the distance would be."""
        made = dense(below(w, "query_key_value"), distances[distance_row(t - s, len(distances) // 2, max_length)])
        return content @ made.reshape(3, num_heads, h)[part, head]

    def sees(b, t, s):
        if mask is not None and not mask[b, s]:
            return False
        if attention_mask is not None and not attention_mask[b, 0, t, s]:
            return False
        if not own:
            return True
        if document_ids is not None and document_ids[b, t] != document_ids[b, s]:
            return False
        if causal and s > t:
            return False
        return attention_window is None or abs(t - s) < attention_window

    def score(b, head, t, s):
        q, k = query[b, t, head], key[b, s, head * K // num_heads]
        if positions == "rotary" and own:
            q = rotate(q, position_ids[b, t], rope_theta, partial_rotary_factor)
            k = rotate(k, position_ids[b, s], rope_theta, partial_rotary_factor)
        bias = 0.0 if position_bias is None else position_bias[0, head, t, s]
        if relative_bias is not None and own:
            bias += relative_bias[bucket(t - s, causal), head]
        product = q @ k
        if distances is not None and own:
            product += with_place(q, 1, head, t, s) + with_place(k, 0, head, t, s)
        product = product * (1 / math.sqrt(h) if attention_scale is None else attention_scale)
        if attention_soft_cap is not None:
            product = attention_soft_cap * math.tanh(product / attention_soft_cap)
        return product + bias

    mixed, probabilities = np.zeros((B, T, num_heads, h)), np.zeros((B, num_heads, T, S))
    for b, t, head in np.ndindex(B, T, num_heads):
        seen = [s for s in range(S) if sees(b, t, s)]
        shares = np.exp([score(b, head, t, s) for s in seen])
        probabilities[b, head, t, seen] = shares / shares.sum()
        mixed[b, t, head] = probabilities[b, head, t, seen] @ value[b, seen, head * K // num_heads]
    return dense(below(w, "output"), mixed.reshape(B, T, -1)), probabilities


def block(
    w, x, context=None, *, norm_placement="pre", norm="layer", norm_epsilon=1e-5, norm_scale=True, parallel=False,
    shared_norm=True, skip_attention_norm=False, activation="gelu", gated=False, causal=True, positions="rotary",
    context_mask=None, num_experts=None, experts_per_token=2, normalize_experts=True, router_loss=0.0, **options,
):  # fmt: skip
    """A Transformer block; `options` are those of `attention`."""
    options["norm_epsilon"] = norm_epsilon
    shared = ("num_heads", "num_kv_heads", "norm_epsilon", "qk_norm", "attention_scale", "attention_soft_cap")
    cross = {name: options[name] for name in shared if name in options}

    def normed(name, x):
        return normalise(below(w, name), x, norm_epsilon)

    def self_attention(x):
        return attention(below(w, "attention"), x, causal=causal, positions=positions, **options)[0]

    def cross_attention(x):
        return attention(below(w, "cross_attention"), x, context, mask=context_mask, **cross)[0]

    def widen_and_narrow(x):
        if num_experts is not None:
            return mixture(below(w, "feed_forward"), x, activation, gated, experts_per_token, normalize_experts)[0]
        return feed_forward(below(w, "feed_forward"), x, activation, gated)

    if parallel:
        entering = normed("attention_norm", x)
        fed = widen_and_narrow(entering if shared_norm else normed("feed_forward_norm", x))
        return x + self_attention(entering) + fed
    sublayers = [("attention", self_attention), ("feed_forward", widen_and_narrow)]
    if context is not None:
        sublayers.insert(1, ("cross_attention", cross_attention))
    for name, sublayer in sublayers:
        if name == "attention" and skip_attention_norm:
            x = x + sublayer(x)
        elif norm_placement == "pre":
            x = x + sublayer(normed(f"{name}_norm", x))
        elif norm_placement == "post":
            x = normed(f"{name}_norm", x + sublayer(x))
        elif norm_placement == "output":
            x = x + normed(f"{name}_output_norm", sublayer(x))
        else:
            x = x + normed(f"{name}_output_norm", sublayer(normed(f"{name}_norm", x)))
    return x


def positions_in_documents(document_ids):
    """Positions that count from the first token of each document, a token at a time."""
    position_ids = np.zeros_like(document_ids)
    for b, t in np.ndindex(document_ids.shape):
        if t and document_ids[b, t] == document_ids[b, t - 1]:
            position_ids[b, t] = position_ids[b, t - 1] + 1
    return position_ids


def transformer(
    w, x, context=None, *, num_layers, positions="rotary", document_ids=None, norm_epsilon=1e-5, input_norm=False,
    embedding_size=None, num_layer_groups=None, position_buckets=None, **options,
):  # fmt: skip
    """The stack; `options` are those of `block`."""
    position_ids = np.broadcast_to(np.arange(x.shape[1]), x.shape[:2])
    if document_ids is not None:
        position_ids = positions_in_documents(document_ids)
    if "input_projection/kernel" in w and embedding_size is None:
        x = dense(below(w, "input_projection"), x)
    x = add_positions(w, x, positions, position_ids)
    if input_norm:
        x = normalise(below(w, "input_norm"), x, norm_epsilon)
    if embedding_size is not None:
        x = dense(below(w, "input_projection"), x)
    distances = w.get("distance_embedding/embeddings")
    if distances is not None:
        distances = normalise(below(w, "distance_norm"), distances, norm_epsilon)
    for i in range(num_layers):
        own = {name: value[i] if isinstance(value, tuple) else value for name, value in options.items()}
        x = block(
            below(w, f"block_{i if num_layer_groups is None else i // (num_layers // num_layer_groups)}"),
            x,
            context,
            positions="rotary" if positions == "rotary" else None,
            relative_bias=w.get("relative_bias/embeddings"),
            distances=distances,
            document_ids=document_ids,
            position_ids=position_ids,
            norm_epsilon=norm_epsilon,
            **own,
        )
    return x if options.get("norm_placement") == "post" else normalise(below(w, "final_norm"), x, norm_epsilon)


def causal_lm(w, config, token_ids, document_ids=None):
    """Logits (B, T, V) of a `CausalLM` with this config."""
    fields = {name: value for name, value in transformer_options(config).items() if name not in TRAINING_ONLY}
    embeddings = w["token_embedding/embeddings"]
    x = transformer(
        below(w, "transformer"),
        embeddings[token_ids] * (config.d_model**0.5 if config.scale_embeddings else 1),
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        document_ids=document_ids,
        **fields,
    )
    logits, cap = x @ w.get("token_embedding/reverse_embeddings", embeddings.T), config.logit_soft_cap
    return logits if cap is None else cap * np.tanh(logits / cap)


def seq2seq_lm(w, config, source_ids, target_ids, source_mask=None):
    """Logits (B, T, V) of a `Seq2SeqLM` with this config."""
    fields = {name: value for name, value in transformer_options(config).items() if name not in TRAINING_ONLY}
    fields["num_heads"] = config.num_heads
    scale = config.d_model**0.5 if config.scale_embeddings else 1
    embeddings = w["token_embedding/embeddings"]
    sources = w.get("source_embedding/embeddings", embeddings)[source_ids] * scale
    encoded = transformer(
        below(w, "encoder"), sources, num_layers=config.num_encoder_layers, causal=False, mask=source_mask, **fields
    )
    x = transformer(
        below(w, "decoder"),
        embeddings[target_ids] * scale,
        encoded,
        num_layers=config.num_layers,
        context_mask=source_mask,
        **fields,
    )
    return x @ w.get("token_embedding/reverse_embeddings", embeddings.T) + w.get("output_bias", 0)
