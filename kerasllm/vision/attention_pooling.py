"""One vector of all patches, by attention.

Shapes: B pictures, N patches, D d_model.
"""

import keras
from keras import ops

from kerasllm.layers.composite import Composite
from kerasllm.layers.dense import Dense, clone_initializer
from kerasllm.layers.dot_product import attend
from kerasllm.layers.dropout import Dropout
from kerasllm.layers.feed_forward import FeedForward
from kerasllm.layers.heads import join_heads, split_projections
from kerasllm.layers.normalization import make_norm
from kerasllm.layers.taps import tap


class AttentionPooling(Composite, keras.layers.Layer):
    """A trained query looks at all patches, and a feed-forward layer at what it finds, as in SigLIP.

    Args:
        config: VisionConfig.
        kernel_initializer: of all kernels.

    Call arguments:
        x: float (B, N, D).

    Returns:
        float (B, D).

    Reference: Zhai et al. 2022, https://arxiv.org/abs/2106.04560, appendix
    """

    def __init__(self, config, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, shape):
        config, D = self.config, self.config.d_model
        options = {"dtype": self.dtype_policy}
        self.probe = self.add_weight((D,), keras.initializers.RandomNormal(0.02), name="probe")
        self.query_key_value, self.output_projection = (
            Dense(units, kernel_initializer=clone_initializer(self.kernel_initializer), name=name, **options)
            for name, units in (("query_key_value", 3 * D), ("output", D))
        )
        self.norm = make_norm(config, "norm", self.dtype_policy)
        self.feed_forward = FeedForward(
            D,
            config.dff,
            activation=config.activation,
            use_bias=config.use_bias,
            kernel_initializer=self.kernel_initializer,
            name="feed_forward",
            **options,
        )
        self.no_dropout = Dropout(0.0, name="no_dropout", **options)
        for layer in (self.query_key_value, self.output_projection, self.norm, self.feed_forward):
            layer.build((None, None, D))

    def call(self, x, training=None):
        heads = 3 * (self.config.num_heads,)
        probe = ops.cast(self.probe, x.dtype)[None, None]
        query, _, _ = split_projections(self.query_key_value(probe), *heads)
        _, key, value = split_projections(self.query_key_value(x, training=training), *heads)
        query = ops.broadcast_to(query, (ops.shape(x)[0], *query.shape[1:])) * query.shape[-1] ** -0.5
        last = {"soft_cap": None, "dropout": self.no_dropout, "training": training}
        pooled, _ = attend(query, key, value, None, None, **last, layer=self)
        pooled = self.output_projection(join_heads(pooled))
        return tap(pooled + self.feed_forward(self.norm(pooled), training=training), self, "output")[:, 0]

    def get_config(self):
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
