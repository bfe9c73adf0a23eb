"""What a task is made of."""

import dataclasses
import typing

# A laptop's model where neither a preset nor a setting says otherwise. No biases, and squared ReLU: both are as good
# and quicker to train than GPT-2's choices (Primer, https://arxiv.org/abs/2109.08668).
DEFAULT_MODEL = {
    "num_layers": 4,
    "d_model": 256,
    "num_heads": 4,
    "dff": 1024,
    "max_length": 256,
    "norm": "rms",
    "activation": "relu_squared",
    "use_bias": False,
}
SAMPLE = "The"  # of what an exported model is tried with
MOST_SAMPLE_TOKENS = 16  # read and written
# The only fields of a config that say how a model with an encoder differs.
OF_ENCODERS = ("num_encoder_layers", "source_vocab_size", "decoder_start_id", "forced_bos_id")
OF_TOKEN_TYPES = ("num_token_types", "num_task_types")
# The settings of a run that learns labels, and of one that begins with a model.
OF_CLASSIFYING = ("text_column", "label_column", "problem", "balanced")
OF_TUNING = ("base", "adapter", "quantize", "rank", "alpha", "adapter_layers", "train_also", "chat_format")
OF_PREFERENCES = ("loss", "beta")
OF_REWARDS = ("reward", "group_size", "answer_tokens")
OF_DIALOGUE = ("judge",)
OF_DISTILLING = ("teacher",)
OF_SEEING = ("train", "encoder")
OF_RUNNING_TEXT = ("canaries", "context_warmup")
OF_SPECIAL = (*OF_PREFERENCES, *OF_REWARDS, *OF_DIALOGUE, *OF_DISTILLING, *OF_SEEING, *OF_RUNNING_TEXT)
NOT_OF_CHATS = (*OF_CLASSIFYING, *OF_SPECIAL)
NOT_OF_TEXT = (*OF_TUNING, *NOT_OF_CHATS)


class Task:
    """A kind of model: its class, what it learns from, how it is scored, used and exported.

    A subclass is a task, and says all of this about it; `text.TextTask` is one to build on where a model learns from
    running text. An object of it is the data of one run of `kerasllm.recipe.train`, which asks in this order:
    `config`, `tokenizer`, `texts`, `datasets`, `measure`, `model`, `loss`, `tokens_per_step`, `begin`, `callbacks`,
    `score`.

    Nothing but the standard library and `kerasllm` itself is imported at the top of a task's file: `--help` reads it.

    Args:
        settings: a `kerasllm.settings.TrainSettings`.

    Attributes:
        name: str, as in `--task`.
        learns: str, what it learns, for `kerasllm train --help`.
        function: str, the function of `kerasllm` that uses such a model.
        scored_by: str, the function of `kerasllm.evaluation` that scores it.
        command: str, arguments of `kerasllm` that try a model, with {} for its folder: see `command_for`.
        unused_settings: names of the settings that mean nothing here, and are refused.
        unused_fields: names of the fields of `TransformerConfig` that mean nothing here, likewise.
        num_columns: int, how many columns of a table, or fields of records, are read.
        most_columns: int or None, how many there may be where not just so many.
        planned_as: dict or None, arguments of `kerasllm.planning.plan`, which counts memory; None where it does not.
        has_stride: bool, whether `kerasllm evaluate --stride` means something.
        is_private: bool, whether it can be learned under a promise of differential privacy: `--dp-epsilon`.
        tunes: bool, whether `kerasllm tune --task` is for it too.
        special_tokens: those of a tokenizer that is to be trained, besides the usual.
        validation_share: float, batches that a point of the validation curve may take, for each of training.
        loss_deviations: float, by how many a loss stands out: see `kerasllm.callbacks.LossGuard`.
    """

    name = learns = function = scored_by = command = ""
    unused_settings = NOT_OF_TEXT
    unused_fields = ()
    num_columns = 1
    most_columns = None
    planned_as = None
    has_stride = False
    is_private = False
    tunes = False
    special_tokens = ()
    validation_share = 0.1
    loss_deviations = 10.0

    def __init__(self, settings):
        self.settings = settings

    @staticmethod
    def defaults(given):
        """The settings that have another value here than elsewhere where nothing is given, beside those that are."""
        return {}

    # The model and how it learns.

    @staticmethod
    def model_class():
        """The class of the models, registered with Keras under the package "kerasllm"."""
        raise NotImplementedError

    def config(self):
        """The `TransformerConfig` that the settings ask for, before any text is read and any tokenizer is known."""
        from kerasllm.models import TransformerConfig

        given = self.model_fields()
        for name in given.keys() & {*self.unused_fields}:
            raise ValueError(f"model.{name} does nothing for the task {self.name}: leave it out.")
        _check_types(given)
        given.setdefault("vocab_size", self.settings.vocab_size)
        if self.settings.preset:
            config = TransformerConfig.preset(self.settings.preset, **given)
        else:
            if "d_model" in given:
                given.setdefault("dff", 4 * given["d_model"])
            config = TransformerConfig.from_dict({**DEFAULT_MODEL, **given})
        if config.num_encoder_layers and not self.model_class().has_encoder:
            raise ValueError(
                f"The preset {self.settings.preset} has an encoder, and a {self.model_class().__name__} has none: take "
                "another preset, or --task translate."
            )
        return config

    def model_fields(self):
        """The fields of the config that the settings give."""
        return dict(self.settings.model)

    def tokenizer(self):
        """The tokenizer where the task has one; None where the settings say which."""
        return None

    def fitted(self, config, tokenizer):
        """The config with a row for each id of the tokenizer, or with as many as the settings ask for."""
        size, given = tokenizer.vocab_size, self.settings.model
        for name in ("vocab_size", "source_vocab_size"):
            if (given.get(name) or size) < size:
                raise ValueError(f"model.{name}={given[name]} is fewer than the {size} ids of the tokenizer.")
        return dataclasses.replace(config, vocab_size=given.get("vocab_size", size))

    def model(self, config, dtype):
        """A new model."""
        return self.model_class()(config, dtype=dtype)

    def loss(self):
        """The loss that it learns by."""
        from kerasllm.losses import TokenCrossentropy

        return TokenCrossentropy(self.settings.label_smoothing, self.settings.loss_chunk)

    # The data of a run.

    def measure(self):
        """Reads the data.

        Returns:
            A dict of its parts, each with the dict of what is recorded of it: "bytes" and a fingerprint, by which
            `train --resume` knows that the data are still the same.
        """
        raise NotImplementedError

    def texts(self):
        """What a tokenizer is to be trained on, an iterable of str."""
        raise NotImplementedError

    def datasets(self, config, tokenizer, folder):
        """Tokenizes, into `folder` if anywhere, so that too little data is refused before the run begins.

        Returns:
            A function (epochs, start_step) -> the data set to train on, whose order is a function of the seed and the
            step, and which has a length; and the data set to measure on.
        """
        raise NotImplementedError

    def tokens_per_step(self, config, training):
        """Tokens in a batch of the training data set, and what training takes per token: (number, FLOPs or None)."""
        raise NotImplementedError

    def begin(self, model, tokenizer):
        """Called with a compiled model before its first step, where nothing of the run is done."""

    def callbacks(self, tokenizer):
        """What else is to be called while the model trains."""
        return []

    def score(self, model, tokenizer):
        """Measures the trained model on what was held out; returns a dict."""
        raise NotImplementedError

    # A trained model.

    @classmethod
    def evaluate(cls, model, tokenizer, sources, columns, **options):
        """What `kerasllm evaluate` does.

        Args:
            model, tokenizer: as `kerasllm.load` returns them.
            sources: list of str, what --data says.
            columns: list of str, what --field says.
            **options: `stride`, where `has_stride`.

        Returns:
            A dict, as `score`.
        """
        raise NotImplementedError

    @classmethod
    def command_for(cls, results, folder):
        """Arguments of `kerasllm` that try a model in a folder, quoted for a shell, which was scored so."""
        return cls.command.format(folder)

    @classmethod
    def rows_of_run(cls, results):
        """The same of the results of a run; those of several processes are measured when they have ended."""
        if results.get("measured", True):
            yield from cls.rows(results)
        else:
            yield "measured", "not yet: kerasllm evaluate"

    @staticmethod
    def rows(figures):
        """Rows (what, figure) of two str each, of what `score` returns, and last of what it was measured on."""
        raise NotImplementedError

    @staticmethod
    def served(model, tokenizer, text):
        """A `tf.Module` whose `SIGNATURES` name its functions: what the SavedModel of a model answers.

        Args:
            text: bool. False leaves out what takes or gives text.
        """
        raise NotImplementedError

    @staticmethod
    def sample_inputs(model):
        """What `forward` and the model take: a dict of arrays, of a few ids that every vocabulary has."""
        return {"token_ids": sample_ids(model.config) % model.config.vocab_size}

    @staticmethod
    def compared(model, tokenizer, signatures):
        """What a SavedModel makes of `SAMPLE`, and what the model does: a pair of equal values if all is well.

        Args:
            signatures: dict of functions, as `tf.saved_model.load(...).signatures`.

        Returns:
            The pair, or None where there is nothing but `forward`.
        """
        return None


def sample_ids(config):
    """A row of ids that are to be taken modulo the size of a vocabulary, int32 (1, T)."""
    import numpy as np

    length = min(MOST_SAMPLE_TOKENS, max(config.max_length // 2, 1))
    return 7 * np.arange(1, length + 1, dtype="int32")[None]


def _check_types(fields):
    """Refuses values of another type than the fields of `TransformerConfig` have; names are its own to check."""
    from kerasllm.layers import BlockOptions
    from kerasllm.models import TransformerConfig

    hints = typing.get_type_hints(TransformerConfig)
    for name in fields.keys() & hints.keys():
        value, hint = fields[name], hints[name]
        kinds = tuple(typing.get_origin(kind) or kind for kind in typing.get_args(hint) or (hint,))
        takes_ints = float in kinds  # YAML writes 1 for 1.0
        by_layer = isinstance(value, list | tuple) and name in BlockOptions.names()
        for one in value if by_layer else [value]:
            if type(one) not in (*kinds, *([int] if takes_ints else [])):
                wanted = " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
                raise ValueError(f"model.{name} takes {wanted}, not {value!r}.")


_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a mapping",
    type(None): "null",
}
