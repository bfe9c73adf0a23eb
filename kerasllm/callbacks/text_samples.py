"""What a model writes while it trains."""

from pathlib import Path

import keras

from kerasllm.generation import generate
from kerasllm.models.shapes import context_length

_NEW_TOKENS = 64


class TextSamples(keras.callbacks.Callback):
    """Has the model continue some prompts at the end of each epoch.

    The texts are added to a Markdown file, and go to trackers. With a moving average of weights, put
    `keras.callbacks.SwapEMAWeights(swap_on_epoch=True)` before this one, so that the average writes.

    Args:
        prompts: str or list of str.
        tokenizer: the model's `Tokenizer`.
        path: .md file to append to, or None.
        trackers: list of `Tracker`, which stand before this callback.
        **options: for `kerasllm.generate`; by default `temperature=0.8` and `seed=0`, so that what differs between two
            epochs is the model's doing, and up to 64 new tokens, as the model's context allows.

    Raises:
        ValueError: if there are no prompts; when `fit` begins, if one fills the model's context.

    Example:

    >>> samples = kerasllm.callbacks.TextSamples("Once upon a time", tokenizer, "samples.md")
    >>> model.fit(dataset, epochs=10, callbacks=[samples])
    >>> samples.texts[-1]
    """

    def __init__(self, prompts, tokenizer, path=None, trackers=(), **options):
        super().__init__()
        self.prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not self.prompts:
            raise ValueError("There are no prompts to continue; give at least one.")
        self.tokenizer, self.trackers = tokenizer, list(trackers)
        self.path = None if path is None else Path(path)
        self.options = {"temperature": 0.8, "seed": 0, **options}
        self.texts = []  # list of str for each epoch

    def get_state(self, step):
        return {}

    def set_state(self, state):
        pass

    def on_train_begin(self, logs=None):
        longest = max(len(self.tokenizer.encode(prompt)) for prompt in self.prompts)
        room = (context_length(self.model) or longest + _NEW_TOKENS) - longest
        if room < 1:
            raise ValueError(f"A prompt of {longest} tokens to be continued fills the model's context: shorten it.")
        self.options.setdefault("max_new_tokens", min(_NEW_TOKENS, room))

    def on_epoch_end(self, epoch, logs=None):
        texts = generate(self.model, self.tokenizer, self.prompts, **self.options)
        self.texts.append(texts)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"## Epoch {epoch + 1}\n\n")
                for prompt, text in zip(self.prompts, texts, strict=True):
                    quoted = f"**{prompt}**{text}".replace("\n", "\n> ")
                    file.write(f"> {quoted}\n\n")
        for tracker in self.trackers:
            both = zip(self.prompts, texts, strict=True)
            tracker.texts(tracker.steps, {f"sample_{n}": prompt + text for n, (prompt, text) in enumerate(both)})
