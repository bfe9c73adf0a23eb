"""Layers that hold other layers which come and go while they are built."""

import keras


class Adaptable:
    """What a layer has that takes an adapter: the base class before Keras' own.

    Attributes:
        adapter: what `set_adapter` was given last, or None.
    """

    adapter = None

    def _adapter_shapes(self):
        """What an adapter is built with."""
        raise NotImplementedError

    def set_adapter(self, adapter):
        """Gives a built layer an adapter in place of the one that it has, or takes it out; see `Dense.set_adapter`."""
        self._check_takes("an adapter")
        if adapter is not None and not adapter.built:
            with self._open_name_scope():  # so that the paths of its weights begin with the layer's
                has_weights = type(adapter).build is not keras.layers.Layer.build  # whose own takes a single shape
                adapter.build(*self._adapter_shapes()[: None if has_weights else 1])
            adapter.supports_masking = True  # as this layer does
        self._exchange("adapter", adapter)

    def _check_takes(self, what):
        if not self.built or self.quantization_mode is not None:
            state = "is not built yet" if not self.built else f"is quantized by {self.quantization_mode!r}"
            raise ValueError(f"{self.path or self.name} {state}, so it cannot be given {what}.")

    def _exchange(self, name, layer):
        """Puts another layer, or none, in the place of one that the built layer holds."""
        before = getattr(self, name)
        if before is not None:
            self._tracker.untrack(before)
            delattr(self, name)
        if layer is not None:
            self._tracker.unlock()
            setattr(self, name, layer)
            self._tracker.lock()
