"""What tasks share in which a model that has learned a language may get adapters: what `--adapter` and its kin do."""

import kerasllm

_MORE = ("quantize", "rank", "alpha", "adapter_layers", "train_also")


def adapter_defaults(adapter):
    """The settings of adapters where nothing is given; none where all of a model is trained."""
    return {} if adapter in (None, "none") else {"rank": 16, "alpha": 32}


def is_adapted(settings):
    """Whether adapters are trained; refuses what means nothing without."""
    if settings.adapter not in (None, "none"):
        return True
    for name in _MORE:
        if getattr(settings, name):
            raise ValueError(f"{name} does nothing without an adapter: leave it out.")
    return False


def load_base(settings, dtype):
    """The model to begin with and its tokenizer."""
    model, tokenizer = kerasllm.load(settings.base, dtype, settings.quantize)
    if kerasllm.adapters.names(model):
        raise ValueError(f"{settings.base} has adapters already: `kerasllm merge` puts them into its kernels.")
    return model, tokenizer


def adapt(model, settings, train_also=(), train_tokens=(), layers=None):
    """Gives a model the adapters that settings ask for, in `layers` where they name none; what they train also is
    trained beside what is given here."""
    kerasllm.adapters.add(
        model,
        settings.rank,
        settings.alpha,
        settings.adapter,
        settings.adapter_layers or layers,
        train_also=(*train_also, *settings.train_also),
        train_tokens=train_tokens,
    )
