"""Dense layers: the one place where a kernel is read, in training and in decoding.

Two things can be put into a built layer, each a Keras layer whose weights are then among the layer's own:

- an adapter (`set_adapter`), which changes the product of inputs and kernel: LoRA and its kin;
- another form of the kernel (`replace_kernel`), which makes the product in its place: a quantised one. Layers that are
  built within `kernels_made_by` have it from the beginning.

The gradient of a kernel that is not trainable is never computed.
"""

import contextlib
import contextvars
import math

import keras
from keras import ops

from kerasllm import backend
from kerasllm.layers.adaptable import Adaptable

_make_kernel = contextvars.ContextVar("make_kernel", default=None)


@contextlib.contextmanager
def kernels_made_by(make):
    """Within it, dense layers are built with kernels in another form, and no float is ever held for those.

    Args:
        make: a function from the path of a layer, such as "causal_lm/transformer/block_0/attention/output", to what
            `Dense.replace_kernel` takes; or to None, for a kernel as any.
    """
    token = _make_kernel.set(make)
    try:
        yield
    finally:
        _make_kernel.reset(token)


def kernel_made_for(layer):
    """What `kernels_made_by` makes for a layer that is being built, or None."""
    make = _make_kernel.get()
    return make and make(layer.path)


class Dense(Adaptable, keras.layers.Dense):
    """As `keras.layers.Dense`, without an activation; in fewer and cheaper ops in training, and for a single token.

    Attributes:
        adapter: what `set_adapter` was given last, or None.
        kernel_layer: what `replace_kernel` was given, or None.
    """

    kernel_layer = None

    def build(self, input_shape):
        kernel_layer = kernel_made_for(self)
        if kernel_layer is None:
            super().build(input_shape)
            return
        D = input_shape[-1]
        kernel_layer.build((D, self.units))
        self.kernel_layer = kernel_layer
        self.bias = self.add_weight((self.units,), self.bias_initializer, name="bias") if self.use_bias else None
        self.input_spec, self.built = keras.layers.InputSpec(min_ndim=2, axes={-1: D}), True

    def call(self, inputs, training=None):
        if self.adapter is None:
            return self._product(inputs, training, self.bias)
        product = self.adapter(inputs, self._product(inputs, training), kernel=lambda: self.kernel)
        product = ops.cast(product, self.compute_dtype)
        return product if self.bias is None else ops.add(product, self.bias)

    def in_parts(self, inputs, widths, counts=None):
        """The output in parts (..., width) that lie side by side in it, each made alone by devices that share out what
        is in it: a list, or None where no devices do, and the whole is to be split.

        Args:
            inputs: float (..., D).
            widths: ints, of the parts.
            counts: ints, of the heads in each part, which are not to be cut; their widths when absent.
        """
        if self.adapter is not None or self.kernel_layer is not None:
            return None
        kernels = backend.kernels_by_devices(self.kernel, self.bias, widths, counts or widths)
        if kernels is None:
            return None
        products = ((ops.matmul(inputs, kernel), bias) for kernel, bias in kernels)
        return [product if bias is None else ops.add(product, bias) for product, bias in products]

    def _product(self, inputs, training, bias=None):
        """Inputs (..., D) times the kernel, plus a bias: float (..., U)."""
        if self.kernel_layer is not None:
            product = self.kernel_layer.matmul(inputs)
        elif training and self.use_bias:
            return backend.dense(inputs, self.kernel, bias)
        elif not training and None not in inputs.shape and math.prod(inputs.shape[:-1]) == 1:
            product = backend.row_times_matrix(inputs, self.kernel)
        else:
            product = ops.matmul(inputs, self.kernel)
        return product if bias is None else ops.add(product, bias)

    def set_adapter(self, adapter):
        """Gives a built layer an adapter in place of the one that it has; compile the model anew then.

        Args:
            adapter: None, or a Keras layer whose `call(inputs, product, kernel)` gets the inputs (..., D), their
                product with the kernel (..., U), and a function without arguments that gives the kernel (D, U) itself,
                for what needs it. It returns what is to stand in the place of the product, in any float dtype; the bias
                is added to it. Unless it is built, its `build((None, D), (None, U))` is called here.
                `keras.saving.register_keras_serializable` makes it come back with the model that it is saved in.

        Raises:
            ValueError: if the layer is not built, or quantized by Keras' own `quantize`, which has no place for it.

        Example:
            >>> class HalfProduct(keras.layers.Layer):
            ...     def call(self, inputs, product, kernel):
            ...         return product / 2
            >>> layer = Dense(3)
            >>> layer.build((None, 2))
            >>> layer.set_adapter(HalfProduct())
        """
        super().set_adapter(adapter)

    def _adapter_shapes(self):
        return (None, self.input_spec.axes[-1]), (None, self.units)

    def replace_kernel(self, kernel_layer):
        """Puts another form of the kernel in its place, for good; compile the model anew then.

        Args:
            kernel_layer: a Keras layer with `assign(kernel)`, which is called with the kernel (D, U) that the layer
                has, after `build((D, U))`; `matmul(inputs)`, the product (..., U) of inputs (..., D) and the kernel;
                and the property `kernel`, the values (D, U) themselves, for what needs them all at once.

        Raises:
            ValueError: if the layer is not built, or quantized by Keras' own `quantize`, or has its LoRA.
        """
        self._check_takes("another form of the kernel")
        if self.lora_enabled:
            raise ValueError(
                f"{self.path} has LoRA by `enable_lora`, which works on the kernel itself: merge it first."
            )
        kernel = self.kernel
        with self._open_name_scope():
            kernel_layer.build(tuple(kernel.shape))
        kernel_layer.assign(kernel)
        if self.kernel_layer is None:
            self._untrack_variable(self._kernel)
            super(keras.layers.Layer, self).__delattr__("_kernel")  # Keras' own collects garbage each time.
        self._exchange("kernel_layer", kernel_layer)

    @property
    def kernel(self):
        return super().kernel if self.kernel_layer is None else self.kernel_layer.kernel

    def quantize(self, mode=None, type_check=True, config=None):
        """As Keras' own, which leaves out what it takes for another kind of layer."""
        if self.adapter is not None or self.kernel_layer is not None:
            raise ValueError(f"{self.path} has an adapter or another form of its kernel, so it cannot be quantized.")
        return super().quantize(mode, type_check=False, config=config)

    def enable_lora(self, *args, **kwargs):
        if self.kernel_layer is not None:
            raise ValueError(f"The kernel of {self.path} is in another form: give it LoRA by `set_adapter`.")
        super().enable_lora(*args, **kwargs)

    @property
    def variable_serialization_spec(self):
        spec = super().variable_serialization_spec
        return spec if self.kernel_layer is None else {None: ["bias"]}


def clone_initializer(initializer):
    """A fresh copy: one shared instance would give equal values to all layers of one shape."""
    return initializer.__class__.from_config(initializer.get_config())
