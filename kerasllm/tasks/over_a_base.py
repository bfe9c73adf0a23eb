"""What tasks share whose models are made over one that has learned a language, or from nothing."""

import kerasllm
from kerasllm.tasks.adapting import adapt, adapter_defaults, is_adapted, load_base
from kerasllm.tasks.task import OF_ENCODERS, OF_SPECIAL, SAMPLE, Task


class OverABaseTask(Task):
    """A task of whole texts; `base` says what the model is made over."""

    unused_settings = (
        *("chat_format", "packed", "clean", "deduplicate"),
        *("batch_tokens", "micro_batches", "label_smoothing", "loss_chunk"),
        *OF_SPECIAL,
    )
    unused_fields = OF_ENCODERS
    num_columns = 2
    validation_share = 1.0
    loss_deviations = 100.0  # A few texts that are hard make most of the loss of a batch.
    fields_beside_base = ("max_length",)  # of `model`

    def __init__(self, settings):
        super().__init__(settings)
        self._base = self._parts = None

    @staticmethod
    def defaults(given):
        if given.get("base") is None:
            return {}
        length = {} if given.get("steps") else {"epochs": 3}
        if adapters := adapter_defaults(given.get("adapter")):
            return {"learning_rate": 4e-4, "weight_decay": 0.0, **adapters, **length}
        return {"learning_rate": 5e-5, "weight_decay": 0.01, **length}

    def config(self):
        adapted = is_adapted(self.settings)
        if self.settings.base is None:
            if adapted:
                raise ValueError("adapter does nothing without base: give --from what has learned a language before.")
            return super().config()
        if self.settings.preset:
            raise ValueError(f"preset does nothing beside base: {self.settings.base} says what the model is.")
        for name in self.settings.model.keys() - {*self.fields_beside_base}:
            raise ValueError(f"model.{name} does nothing beside base: {self.settings.base} says what the model is.")
        self._base = load_base(self.settings, kerasllm.training.precision(self.settings.precision)[0])
        return self._base[0].config

    def tokenizer(self):
        return self._base and self._base[1]

    def fitted(self, config, tokenizer):
        return config if self._base else super().fitted(config, tokenizer)

    def loss(self):
        """That of the model, which knows what it learns."""
        return None

    def _over_base(self, config, dtype, **options):
        """A new model over the base, or from nothing."""
        if self._base is None:
            return self.model_class()(config, dtype=dtype, **options)
        quantized = is_adapted(self.settings)  # Without adapters kernels are to be trained.
        return self._adapted(self.model_class().from_model(self._base[0], quantized=quantized, **options))

    def _adapted(self, model):
        """A model with the adapters that the settings ask for, beside which its head is trained as it is."""
        self._base = None
        if is_adapted(self.settings):
            adapt(model, self.settings, [layer.name for layer in model.layers if layer.name.startswith("head_")])
        return model

    def _has_types(self, config):
        """Whether the model tells the texts of a pair apart; over a causal one it reads no types."""
        from kerasllm.models.token_types import TypedModel

        is_typed = self._base is None or isinstance(self._base[0], TypedModel)
        return is_typed and bool(config.num_token_types)

    def tokens_per_step(self, config, training):
        """No FLOPs: texts are of many lengths."""
        return training.tokens_per_step, None

    @staticmethod
    def close_to_served(signatures, output, expected):
        """Whether a SavedModel makes of `SAMPLE` what the model does, as `compared` says it."""
        import numpy as np
        import tensorflow as tf

        made = signatures["serving_default"](text=tf.constant([SAMPLE]))[output][0].numpy()
        return bool(np.allclose(made, expected, rtol=0.02, atol=0.02)), True

    def _max_length(self, config):
        return min(self.settings.model.get("max_length") or config.max_length, config.max_length)
