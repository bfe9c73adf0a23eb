"""Which tables of a checkpoint are one: as transformers decides, by its settings and by what the file holds."""

import dataclasses


def tie(config, family, values, checkpoint):
    """Ties what a checkpoint leaves out, and unties what it holds with other values.

    Args:
        config: `TransformerConfig`, as the settings say.
        family: `Family`.
        values: dict, the settings.
        checkpoint: `Checkpoint`; what it leaves out gets the name of what stands for it.

    Returns:
        The `TransformerConfig` of what the checkpoint holds, and the names that this has dealt with.
    """
    table = family.weights(config, values)
    embedding, output = (table[f"token_embedding/{name}"].names[0] for name in ("embeddings", "reverse_embeddings"))
    source, names = embedding, [output]
    if family.side_tables and not (config.source_vocab_size and config.tie_embeddings):
        # Older files have but one table for both sides.
        source, names = family.shared_table, [*family.side_tables, output]
    different = _different(checkpoint, source, names if config.tie_embeddings else names[:-1])
    if config.source_vocab_size is None and different & {*family.side_tables}:
        config = dataclasses.replace(config, source_vocab_size=config.vocab_size, tie_embeddings=False)
    elif output in different:
        config = dataclasses.replace(config, tie_embeddings=False)
    handled = {family.shared_table, embedding, output, *family.side_tables, *family.output_bias}
    return _with_bias(config, family, checkpoint), handled


def _different(checkpoint, source, names):
    """Those of some names whose tensors differ from the source's; absent ones are the source, or stand for it."""
    held = [name for name in (source, *names) if name in checkpoint.names]
    for name in (source, *names) if held else ():
        if name not in checkpoint.names:
            checkpoint.alias(name, held[0])
    return {name for name in names if held and not checkpoint.equal(name, source)}


def _with_bias(config, family, checkpoint):
    held = [name for name in family.output_bias if name in checkpoint.names]
    for name in family.output_bias if held else ():
        checkpoint.alias(name, held[0])
    if not family.model.predicts_next or not held:  # A masked model always has one.
        return config
    return dataclasses.replace(config, output_bias=bool(checkpoint.read(held[0]).any()))
