"""What a model says of labels, and of whole batches, where nothing is learned: what losses over preferences read.

Shapes: B batch, T time.
"""

from keras import ops, tree

from kerasllm import backend
from kerasllm.layers.named_adapters import adapters_of, without_adapters
from kerasllm.losses.likelihood import chunked_log_probabilities, log_probabilities
from kerasllm.training.screened_model import ScreenedModel
from kerasllm.vocabulary import within


class ScoringModel(ScreenedModel):
    """A model that makes log-probabilities of labels.

    Subclasses have what `TokenModel` asks for.
    """

    def log_probabilities(self, inputs, labels, weight=None, chunk_size=256, of_reference=False):
        """The log-probability of each label, without a gradient; logits are made of some tokens at a time.

        Args:
            inputs: as in a call.
            labels: int (B, T), each in the place of the token before it.
            weight: float (B, T) or None. Where it is 0, what is returned is 0.
            chunk_size: int, tokens whose logits exist at a time.
            of_reference: bool. True leaves out the adapters: of the model before it was given them.

        Returns:
            float32 (B, T).

        Raises:
            ValueError: where a reference is asked of a model that has no adapters, or that trains more than them.

        Example:
            >>> ids = np.ones((2, 9), "int32")
            >>> model.log_probabilities(ids[:, :-1], ids[:, 1:]).shape
            TensorShape([2, 8])
        """
        if of_reference:
            self._check_has_reference()
            with without_adapters(self):
                return self.log_probabilities(inputs, labels, weight, chunk_size)
        labels = ops.cast(labels, "int32")
        weight = ops.ones(ops.shape(labels)) if weight is None else ops.cast(weight, "float32")
        labels = within(ops.where(weight != 0, labels, 0), self._vocab_size)
        if self._has_plain_output_layer and self._can_return_hidden_states:
            hidden = self(inputs, training=False, return_hidden_states=True)
            found = chunked_log_probabilities(labels, hidden, self.output_layer(), chunk_size, weight=weight)
        else:
            found = log_probabilities(labels, self(inputs, training=False))
        return ops.stop_gradient(ops.where(weight != 0, found[0], 0.0))

    def _check_has_reference(self):
        adapters = adapters_of(self)
        if not any(layer.active for layer in adapters):
            raise ValueError(
                "The loss needs what a reference says of the answers: give preference_dataset(..., reference=model), "
                "or train adapters (kerasllm.adapters.add), without which the model is its own reference."
            )
        of_adapters = {id(weight) for layer in adapters for weight in layer.weights}
        for weight in self.trainable_variables:
            if id(weight) not in of_adapters:
                raise ValueError(
                    f"{weight.path} is trained beside the adapters, so that the model without them is no reference: "
                    "give preference_dataset(..., reference=model) the model as it was."
                )

    def _summed_over_parts(self, function, batch):
        """Adds up what a function (log_probs (B, T), weight, y_true) -> float32 scalar makes of a batch (x, y_true,
        weight), part by part and without a gradient."""
        parts = tree.map_structure(self._in_micro_batches, batch)

        def body(index, total):
            x, y, weight = tree.map_structure(lambda tensor: tensor[index], parts)
            y, weight = self.loss.targets(y, weight, weight[..., None])
            y = self.loss.completed(self, x, y, weight)
            found = self.log_probabilities(x, y["labels"], weight, self.loss.chunk_size or 256)
            return index + 1, total + function(found, weight, y)

        state = (ops.zeros((), "int32"), ops.zeros(()))
        return backend.while_loop(lambda index, _: index < self._micro_batches, body, state)[1]
