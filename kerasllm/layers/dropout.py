"""Dropout that costs little beside the matrix products around it."""

import keras

from kerasllm import backend
from kerasllm.layers.rematerialization import next_seed


@keras.saving.register_keras_serializable("kerasllm")
class Dropout(keras.layers.Dropout):
    """As `keras.layers.Dropout`; on TensorFlow a random byte decides on each element, where Keras draws four.

    So the rate is rounded to 256ths (0.1 to 26 / 256 = 0.1016), and what is kept is scaled by the rounded rate. A rate
    too small to be rounded well is taken as it is.

    Args:
        rate: float in [0, 1).
        seed: int or None.
        **kwargs: `name` and `dtype`, as for any Keras layer.

    Reference: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(rate, seed=seed, **kwargs)

    def call(self, inputs, training=False):
        if training and self.rate > 0:
            return backend.dropout(inputs, self.rate, next_seed(self))
        return inputs

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config
