"""What a checkpoint says of itself beside its architecture, so that what was read goes out again."""

import dataclasses
import re

_IDS = re.compile(r".*_token_ids?|bad_words_ids|tokenizer_class|prefix")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The type that a model was read as, and the ids and names of its files.

    Attributes:
        model_type: str. Several types compute the same.
        config: dict, of config.json.
        generation: dict, of generation_config.json.
        tokenizer_size: int, ids of the tokenizer that came with it, of which the model may have fewer.
    """

    model_type: str
    config: dict
    generation: dict
    tokenizer_size: int = 0

    @classmethod
    def of(cls, values, generation, tokenizer_size):
        """From the content of the files."""
        config, generation = ({k: v for k, v in d.items() if _IDS.fullmatch(k)} for d in (values, generation))
        return cls(values["model_type"], config, generation, tokenizer_size)
