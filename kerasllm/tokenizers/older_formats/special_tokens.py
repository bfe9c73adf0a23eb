"""The tokens that JSON files beside a vocabulary add to it or call special."""

from tokenizers import AddedToken

from kerasllm.files import read_json
from kerasllm.tokenizers.tokenizer_config import ROLES, text_of

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def add_special_tokens(engine, folder, settings, defaults):
    """Adds the tokens of a folder's files to an engine.

    Tokens with an id of their own come first, then those that are only named: what the vocabulary lacks of these gets
    the next free ids.

    Args:
        engine: `tokenizers.Tokenizer`.
        folder: `Path`.
        settings: dict, what its files say.
        defaults: dict, what holds where they say nothing; of these tokens only those that the vocabulary has are added.

    Raises:
        ValueError: where a token has another id than the files say.
    """
    placed = _placed(folder, settings)
    named = [settings.get(f"{role}_token") for role in ROLES]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(key) or ()
        named += more.values() if isinstance(more, dict) else more
    default = [token for token in (defaults.get(f"{role}_token") for role in ROLES) if _is_known(engine, token)]
    for token in (*named, *default):
        if text := text_of(token):
            known = placed.pop(text, None) or (None, token)
            placed[text] = (known[0], {**_described(known[1]), "special": True})
    places = {token: engine.token_to_id(token) if place is None else place for token, (place, _) in placed.items()}
    for token in sorted(placed, key=lambda token: (places[token] is None, places[token] or 0)):
        place, about = placed[token]
        engine.add_tokens([_added(token, about)])
        if place is not None and engine.token_to_id(token) != place:
            raise ValueError(
                f"{folder} gives the token {token!r} the id {place}, and its vocabulary {engine.token_to_id(token)}; "
                "copy the folder again."
            )


def _placed(folder, settings):
    """The tokens whose ids the files give: a dict from texts to pairs of id and description."""
    placed, path = {}, folder / "added_tokens.json"
    try:
        if path.is_file():
            placed = {token: (int(place), {}) for token, place in read_json(path).items()}
        path = folder / "tokenizer_config.json"
        placed |= {
            about["content"]: (int(place), about) for place, about in settings.get("added_tokens_decoder", {}).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not list added tokens with their ids ({error!r}).") from error
    return placed


def _is_known(engine, token):
    return token is not None and engine.token_to_id(token) is not None


def _described(token):
    return token if isinstance(token, dict) else {}


def _added(token, about):
    flags = {name: about[name] for name in _FLAGS if isinstance(about.get(name), bool)}
    return AddedToken(token, **{"normalized": False, **flags}, special=about.get("special") is True)
