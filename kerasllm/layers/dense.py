"""Dense layers whose biases cost little to train."""

import keras

from kerasllm import backend


class Dense(keras.layers.Dense):
    """As `keras.layers.Dense`, without an activation; in fewer and cheaper ops in training."""

    def call(self, inputs, training=None):
        if not (training and self.use_bias):
            return super().call(inputs, training=training)
        return backend.dense(inputs, self.kernel, self.bias)

    def quantize(self, mode=None, type_check=True, config=None):
        """As Keras' own, which leaves out what it takes for another kind of layer."""
        return super().quantize(mode, type_check=False, config=config)


def clone_initializer(initializer):
    """A fresh copy: one shared instance would give equal values to all layers of one shape."""
    return initializer.__class__.from_config(initializer.get_config())
