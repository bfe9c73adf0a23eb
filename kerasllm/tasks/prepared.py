"""Token files as the data of a run: `--data TOKENS`, or a mixture, `--data wiki@0.3 code@0.7:2B`."""

import re

import kerasllm

HELD_OUT_SHARE, HELD_OUT_TOKENS = 0.1, 10**6
_WEIGHTED = re.compile(r"(?P<path>.+)@(?P<weight>\d*\.?\d+)(:(?P<tokens>\d*\.?\d+)(?P<unit>[kMB]?))?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
_UNUSED = ("clean", "deduplicate", "field", "canaries")


def prepared(settings):
    """The `Prepared` of the settings of a run; None where its data is text.

    Raises:
        ValueError: where some of its data is token files and some is text; for settings that do nothing with them.
    """
    sources = [_read(source) for source in settings.data]
    folders = [kerasllm.data.is_token_folder(path) for path, _, _ in sources]
    if not any(folders) and not any(weight for _, weight, _ in sources):
        return None
    if not all(folders):
        text = next(path for (path, _, _), is_folder in zip(sources, folders, strict=True) if not is_folder)
        raise ValueError(
            f"{text} is no folder of tokens. What has a weight, and what stands beside such folders, is to be one: "
            "make it with kerasllm prepare."
        )
    if given := [name for name in _UNUSED if getattr(settings, name)]:
        raise ValueError(f"{given[0]} does nothing for tokens, which are made already: leave it out.")
    if len({weight is None for _, weight, _ in sources}) > 1:
        raise ValueError(f"Either all data has a weight or none, got {' '.join(settings.data)}.")
    if text := [path for path in settings.valid if not kerasllm.data.is_token_folder(path)]:
        raise ValueError(f"{text[0]} is no folder of tokens, as the data is: make one of it with kerasllm prepare.")
    return Prepared(sources, settings.valid)


def _read(source):
    """The path, weight and budget of tokens that one of the data says; None for what it does not say."""
    match = _WEIGHTED.fullmatch(source)
    if match is None:
        return source, None, None
    tokens = match["tokens"] and int(float(match["tokens"]) * _UNITS[match["unit"]])
    return match["path"], float(match["weight"]), tokens or None


class Prepared:
    """Folders of tokens that a run learns from.

    Args:
        sources: list of (path, weight or None, budget of tokens or None).
        valid: tuple of paths of those to measure on. None: the last tenth of each source, at most a million tokens.
    """

    def __init__(self, sources, valid=()):
        from kerasllm.data.token_streams import TokenMixture, join

        self.files = [kerasllm.data.TokenFiles(path) for path, _, _ in sources]
        training, held_out = self.files, [kerasllm.data.TokenFiles(path) for path in valid]
        if not held_out:
            most = max(HELD_OUT_TOKENS // len(self.files), 1)
            training, held_out = zip(*(files.split(HELD_OUT_SHARE, most) for files in self.files), strict=True)
        weights = None if sources[0][1] is None else [weight for _, weight, _ in sources]
        self.training = TokenMixture(training, weights, [budget for _, _, budget in sources])
        self.held_out = join(list(held_out))

    def tokenizer(self):
        """The tokenizer of the tokens, from the first of the folders."""
        return self.files[0].tokenizer()

    def texts(self, tokenizer):
        """Yields the text of what is held out, as the tokenizer writes its tokens, document by document."""
        for tokens in self.held_out.documents():
            yield tokenizer.decode(tokens)

    def measures(self):
        """What a run records of its data: for each part documents, tokens and the hash of all manifests."""
        hashes = ", ".join(files.sha256 for files in self.files)
        parts = zip(("train", "valid"), (self.training, self.held_out), strict=True)
        return {
            name: {"documents": part.num_documents, "tokens": part.num_tokens, "sha256": hashes} for name, part in parts
        }
