"""The tokens that JSON files beside a vocabulary add to it or call special."""

from tokenizers import AddedToken

from kerasllm.files import read_json
from kerasllm.tokenizers.tokenizer_config import ROLES, text_of
from kerasllm.tokenizers.training import UNKNOWN

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def add_special_tokens(engine, folder, settings, row=None, listed=(), raw=False):
    """Adds the tokens of a folder's files to an engine, as transformers does.

    Those with an id come first, in its order, then those that are only named: what the vocabulary lacks of these gets
    the next free ids.

    Args:
        engine: `tokenizers.Tokenizer`.
        folder: `Path`.
        settings: dict, what its files say.
        row: `TokenizerClass` or None. Of the tokens that are its defaults only those that the vocabulary has are added.
        listed: list of dicts, the added tokens of a tokenizer.json.
        raw: bool, whether tokens are looked for in texts as they are, whatever the files say: where a normalizer puts a
            space before every part of a text, no other token would be found.

    Returns:
        A dict from tokens to the ids that the files give them.
    """
    named = _named(settings)
    more = [token for key in ("additional_special_tokens", "extra_special_tokens") for token in _listed(settings, key)]
    more += row.more_tokens({**row.defaults, **settings}) if row else []
    placed = {token["content"]: (token["id"], token) for token in listed}
    placed |= _placed(folder, settings, special={*map(text_of, (*named, *more))})
    defaults = {name: token for name, token in (row.defaults if row else {}).items() if name not in settings}
    for token in named + [token for token in _named(defaults) if engine.token_to_id(text_of(token)) is not None]:
        place, about = placed.get(text_of(token), (None, token if isinstance(token, dict) else {}))
        placed[text_of(token)] = place, {**about, "special": True}
    for token in more:
        placed.setdefault(text_of(token), (None, {**(token if isinstance(token, dict) else {}), "special": True}))
    ids = {token: engine.token_to_id(token) if place is None else place for token, (place, _) in placed.items()}
    in_order = sorted(placed, key=lambda token: (ids[token] is None, ids[token] or 0))
    forced = {"normalized": False} if raw else {}
    engine.add_tokens([_added(token, {**placed[token][1], **forced}) for token in in_order])
    return {token: place for token, (place, _) in placed.items() if place is not None}


def _named(settings):
    """The tokens that settings give a role, the usual ones first."""
    usual = [f"{role}_token" for role in ROLES]
    names = [*usual, *(name for name in settings if name.endswith("_token") and name not in usual)]
    # Our own unknown token shows in a decoded text, which a special one would not.
    return [settings[name] for name in names if text_of(settings.get(name)) not in (None, "", UNKNOWN)]


def _listed(settings, key):
    """The tokens in a list, or in a dict from names to them."""
    tokens = settings.get(key) or ()
    return [token for token in (tokens.values() if isinstance(tokens, dict) else tokens) if text_of(token)]


def _placed(folder, settings, special):
    """The tokens whose ids the settings give: a dict from texts to pairs of id and description."""
    path = folder / "tokenizer_config.json"
    try:
        if "added_tokens_decoder" in settings:
            places = settings["added_tokens_decoder"].items()
            return {about["content"]: (int(place), about) for place, about in places}
        path = folder / "added_tokens.json"
        places = read_json(path).items() if path.is_file() else ()
        return {
            token: (int(place), {"special": token in special, "normalized": token not in special})
            for token, place in places
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not list added tokens with their ids ({error!r}).") from error


def _added(token, about):
    flags = {name: about[name] for name in _FLAGS if isinstance(about.get(name), bool)}
    is_special = about.get("special") is True
    return AddedToken(token, **{"normalized": not is_special, **flags}, special=is_special)
