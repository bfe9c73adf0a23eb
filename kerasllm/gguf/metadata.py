"""Reading the keys of an architecture: each is taken by someone, or refused."""

REQUIRED = object()
# Keys that change no logits, by what stands behind the name of the architecture.
_HARMLESS = {"vocab_size", "tensor_data_layout", "rope.scaling.finetuned"}


class Metadata:
    """The keys of a file that begin with the name of its architecture.

    Args:
        values: dict, all of the file's metadata.
        path: where they are from, for messages.

    Attributes:
        architecture: str.

    Raises:
        ValueError: if the file does not say its architecture.
    """

    def __init__(self, values, path):
        self.architecture = values.get("general.architecture")
        self.path = path
        if not isinstance(self.architecture, str):
            raise ValueError(f"{path} lacks the key 'general.architecture', which says what model it holds.")
        start = f"{self.architecture}."
        self._values = {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
        self._left = {key for key, value in self._values.items() if value} - _HARMLESS

    def __contains__(self, key):
        return key in self._values

    def take(self, key, kind, default=REQUIRED):
        """A value.

        Args:
            key: str, without the name of the architecture.
            kind: type that the value must have: int, float, str or list. A list of equal numbers, one for each layer,
                stands for one of them.
            default: what an absent one means.

        Raises:
            ValueError: if there is none and must be, or it is of another type.
        """
        self._left.discard(key)
        value = self._values.get(key, default)
        if value is REQUIRED:
            raise ValueError(
                f"{self.path} lacks the key '{self.architecture}.{key}', which a model of its architecture needs; "
                "download or convert it again."
            )
        if key not in self._values:
            return value
        if isinstance(value, list) and kind is not list and value and value.count(value[0]) == len(value):
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            self.refuse(key, value, f"one {kind.__name__}")
        return value

    def only(self, key, kind, value):
        """Refuses a key that has another value."""
        if (found := self.take(key, kind, value)) != value:
            self.refuse(key, found, repr(value))

    def refuse(self, key, value, possible):
        raise ValueError(
            f"{self.path} asks for {self.architecture}.{key}={value!r:.80}, and kerasllm computes only {possible}."
        )

    def finish(self):
        """Refuses what nobody has taken."""
        for key in sorted(self._left):
            raise ValueError(
                f"{self.path} asks for {self.architecture}.{key}={self._values[key]!r:.80}, which kerasllm does not "
                "compute."
            )
