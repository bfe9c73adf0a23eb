"""Dense layers that cost little to train and to decode with."""

import math

import keras

from kerasllm import backend


class Dense(keras.layers.Dense):
    """As `keras.layers.Dense`, without an activation; in fewer and cheaper ops in training, and for a single token."""

    def call(self, inputs, training=None):
        if training and self.use_bias:
            return backend.dense(inputs, self.kernel, self.bias)
        if not training and None not in inputs.shape and math.prod(inputs.shape[:-1]) == 1:
            output = backend.row_times_matrix(inputs, self.kernel)
            return output + self.bias if self.use_bias else output
        return super().call(inputs, training=training)

    def quantize(self, mode=None, type_check=True, config=None):
        """As Keras' own, which leaves out what it takes for another kind of layer."""
        return super().quantize(mode, type_check=False, config=config)


def clone_initializer(initializer):
    """A fresh copy: one shared instance would give equal values to all layers of one shape."""
    return initializer.__class__.from_config(initializer.get_config())
