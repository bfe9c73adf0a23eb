"""What a checkpoint says of how its model is to write: generation_config.json of transformers.

A model keeps it as `generation_settings`, a dict with the names there. Of these, `RULES` hold for `generate`, `stream`
and `chat`, and with `BEAMS` for `translate`, unless the caller says otherwise; how to draw, and how much, is the
caller's choice alone; and of all others that would change text a warning says that nobody heeds them.
"""

import dataclasses
import warnings

from kerasllm.generation.standard_rules import Rules

# Names, and the values that change nothing.
RULES = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "min_length": 0,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "bad_words_ids": [],
}
BEAMS = {
    "num_beams": None,
    "length_penalty": 1.0,
    "early_stopping": False,
    "forced_eos_token_id": None,
    "renormalize_logits": False,
}
CHOICES = {
    "max_length": 20,
    "max_new_tokens": None,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
UNHEEDED = {
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "sequence_bias": None,
    "guidance_scale": 1.0,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "force_words_ids": None,
    "constraints": None,
    "forced_decoder_ids": None,
    "stop_strings": None,
    "watermarking_config": None,
}
DEFAULT_BEAMS = 4


def read_settings(values):
    """What of the content of generation_config.json, or of config.json in older folders, is to be kept: a dict."""
    known = RULES | BEAMS | CHOICES | UNHEEDED
    return {name: values[name] for name in known if values.get(name) not in (None, [], known[name])}


@dataclasses.dataclass(frozen=True)
class BeamSettings:
    """How `translate` searches.

    Args:
        num_beams: int, how many unfinished texts are kept.
        length_penalty: float, the power of a text's length by which the sum of its log-probabilities is divided.
        early_stopping: bool. End where as many texts have ended as there are beams, whatever might still come.
        most: int or None, the most tokens of a text.
        ends_at_last: bool. The end token is the last of those, at no cost.
        renormalises: bool. Probabilities are those among the tokens that the rules allow.
        rules: Rules.
    """

    num_beams: int = DEFAULT_BEAMS
    length_penalty: float = 1.0
    early_stopping: bool = False
    most: int | None = None
    ends_at_last: bool = False
    renormalises: bool = False
    rules: Rules = dataclasses.field(default_factory=Rules)


def rule_options(model, end_ids):
    """The rules that a model's settings set, as `Decoding` takes them: a dict.

    Args:
        model: any; one without settings has no rules.
        end_ids: ids at which its texts end.
    """
    settings = _settings_of(model)
    _warn(settings, [*UNHEEDED, *(["num_beams"] if settings.get("num_beams", 1) > 1 else [])])
    return _rules(settings, end_ids)


def beam_settings(model, end_id, *, num_beams=None, length_penalty=None, early_stopping=None, **rules):
    """The `BeamSettings` of a model, with what a caller gives in their place."""
    settings = _settings_of(model)
    _warn(settings, UNHEEDED)
    stops_early = settings.get("early_stopping", False) is True if early_stopping is None else early_stopping
    penalty = settings.get("length_penalty", 1.0) if length_penalty is None else length_penalty
    most = settings.get("max_new_tokens") or settings.get("max_length", 1) - 1
    given = {name: value for name, value in rules.items() if value is not None}
    return BeamSettings(
        num_beams=settings.get("num_beams", DEFAULT_BEAMS) if num_beams is None else num_beams,
        length_penalty=penalty,
        early_stopping=stops_early,
        most=most or None,
        ends_at_last=settings.get("forced_eos_token_id") == end_id,
        renormalises=bool(settings.get("renormalize_logits")),
        rules=Rules(**{**_rules(settings, [end_id]), **given}),
    )


def _settings_of(model):
    settings = getattr(model, "generation_settings", None)
    return dict(settings) if isinstance(settings, dict) else {}


def _rules(settings, end_ids):
    rules = {name: settings[name] for name in RULES if name in settings}
    words = [list(word) for word in rules.pop("bad_words_ids", [])]
    single = [word[0] for word in words if len(word) == 1 and word[0] not in end_ids]
    if any(len(word) > 1 for word in words):
        _warn({"bad_words_ids": "of several tokens"}, ["bad_words_ids"])
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if name in rules:
            rules[name] = tuple(rules[name])
    if single:
        rules["suppress_tokens"] = (*rules.get("suppress_tokens", ()), *single)
    return rules


def _warn(settings, names):
    found = [f"{name}={settings[name]!r}" for name in names if name in settings]
    if found:
        warnings.warn(
            f"The settings {', '.join(found)} of this model's generation_config.json are not heeded: transformers may "
            f"write other texts. (Take them out of model.generation_settings to have no such warning.)",
            stacklevel=4,
        )
