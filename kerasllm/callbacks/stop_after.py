"""The end of a run after a number of steps."""

import keras


class StopAfter(keras.callbacks.Callback):
    """Ends `fit` after exactly so many steps, also in the middle of the last round."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if self._left == 0:
            self.model.stop_training = True
