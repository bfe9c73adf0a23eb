"""What a checkpoint says of itself beside its architecture, so that what was read goes out again."""

import dataclasses
import re

from kerasllm.huggingface.classifiers import heads_of
from kerasllm.tokenizers.sides import as_pair

_TOKENIZER = ("padding_side", "truncation_side", "model_max_length")
_IDS = re.compile(r".*_token_ids?|bad_words_ids|tokenizer_class|prefix")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The type that a model was read as, and the ids and names of its files.

    Attributes:
        model_type: str. Several types compute the same.
        config: dict, of config.json.
        generation: dict, of generation_config.json.
        tokenizer_size: int, ids of the tokenizer that came with it, of which the model may have fewer.
        tokenizer: dict, how transformers pads and cuts texts, of tokenizer_config.json.
        heads: dict from names of classes of classifiers to what they are called with for the head of transformers' own.
        text_type: str, the type of the language half of a model that sees, or "".
    """

    model_type: str
    config: dict
    generation: dict
    tokenizer_size: int
    tokenizer: dict = dataclasses.field(default_factory=dict)
    heads: dict = dataclasses.field(default_factory=dict)
    text_type: str = ""

    def has(self, tokenizer):
        """Whether a tokenizer, or a pair, has as many ids as the one that came with the model."""
        return as_pair(tokenizer)[1].vocab_size == self.tokenizer_size

    @classmethod
    def of(cls, values, generation, of_tokenizer, tokenizer):
        """From the content of the three files, and the tokenizer or the pair."""
        config, generation = ({k: v for k, v in d.items() if _IDS.fullmatch(k)} for d in (values, generation))
        settings = {name: of_tokenizer[name] for name in _TOKENIZER if name in of_tokenizer}
        size = as_pair(tokenizer)[1].vocab_size
        text_type = (values.get("text_config") or {}).get("model_type", "")
        return cls(values["model_type"], config, generation, size, settings, heads_of(values), text_type)
