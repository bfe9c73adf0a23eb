"""The account of a run: what its steps have given away so far."""

import keras

from kerasllm.privacy.accounting import epsilon


class Account(keras.callbacks.Callback):
    """Adds epsilon to the logs, so that Keras' progress bar and the callbacks after this one show it.

    It counts the steps that the optimizer has made, so that a run that `Checkpoint` restores goes on with its account.
    It is reckoned once in an epoch, at its end; until then the figure of the epoch before stays.

    Args:
        examples, batch_size, delta, accountant: as in `epsilon`.

    Raises:
        TypeError: when `fit` begins, if the optimizer is no `DPAdamW`.

    Example:
        >>> account = kerasllm.privacy.Account(examples=10_000, batch_size=64, delta=1e-6)
        >>> model.fit(dataset, callbacks=[account])
    """

    async_safe = True  # Keras may then call from threads

    def __init__(self, examples, batch_size, delta, accountant="pld"):
        super().__init__()
        self._asked = {"examples": examples, "batch_size": batch_size, "delta": delta, "accountant": accountant}

    def on_train_begin(self, logs=None):
        optimizer = self.model.optimizer
        if not hasattr(optimizer, "noise_multiplier"):
            raise TypeError(f"There is no account of {type(optimizer).__name__}: compile with privacy.DPAdamW.")
        self._noise = optimizer.noise_multiplier
        self._epsilon = self.epsilon_at(int(optimizer.iterations))

    def on_train_batch_end(self, batch, logs=None):
        if logs is not None:
            logs["epsilon"] = self._epsilon

    def on_epoch_end(self, epoch, logs=None):
        self._epsilon = self.epsilon_at(int(self.model.optimizer.iterations))
        if logs is not None:
            logs["epsilon"] = self._epsilon

    def epsilon_at(self, steps):
        """Epsilon after so many steps."""
        return epsilon(steps=steps, noise_multiplier=self._noise, **self._asked)
