"""How long this machine takes to generate: what there is to do, and what that took in runs that were measured."""

import dataclasses
from typing import NamedTuple

from kerasllm.planning.interpolation import between

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class GenerationWork(NamedTuple):
    """What there is to do behind a prompt of so many tokens.

    Attributes:
        rows: int, texts that are written at once.
        weights: int, that a step reads.
        cache_bytes: float, of keys and values that a step reads.
        layer_flops: list of float, of the products of each layer's kernels with the prompt.
        scores: float, of attention within the prompt.
    """

    rows: int
    weights: int
    cache_bytes: float
    layer_flops: list
    scores: float

    @classmethod
    def of(cls, config, rows, tokens, dtype):
        """Of a TransformerConfig; `tokens` are those of each row."""
        layers, D, H = config.options_by_layer(), config.d_model, config.num_heads
        weights = config.num_parameters(embeddings=False, of_tokens=rows)
        weights += config.tie_embeddings * config.vocab_size * config.embedding_width
        cached = sum(cached_numbers(options, config) * seen_tokens(options, tokens) for options in layers)
        of_token = (2 * options.block_parameters(D, H, config.dff, of_tokens=1) for options in layers)
        pairs = sum(options.attention_pairs(tokens, True) for options in layers)
        return cls(
            rows,
            weights,
            rows * cached * NUMBER_BYTES[dtype],
            [rows * tokens * flops for flops in of_token],
            rows * tokens * H * pairs,
        )


def cached_numbers(options, config):
    """Numbers of keys and values of a token in a layer."""
    K, h = options.num_kv_heads or config.num_heads, options.head_dim or config.d_model // config.num_heads
    return 2 * K * h


def seen_tokens(options, tokens):
    """Of so many tokens, those that a layer's cache has."""
    return min(options.attention_window or tokens, tokens)


@dataclasses.dataclass(frozen=True)
class GenerationTimes:
    """How long generation takes in one dtype.

    Args:
        steps: list of (rows, list of (weights, seconds)): for each weight that a step of so many rows reads, by how
            many there are, as small models fit the processor's own memory.
        prompts: list of (FLOPs, FLOP/s), of a layer's products with a whole prompt.
        cache_seconds: float, of a step, for each byte of the cache that it reads.
        score_seconds: float, for each score of attention within a prompt.
    """

    steps: list
    prompts: list
    cache_seconds: float = 0.0
    score_seconds: float = 0.0

    @classmethod
    def fitted(cls, short, long):
        """Fits them to runs, tuples of `GenerationWork`, the seconds of its prompt and those of a step.

        Args:
            short: list of runs, of models of several sizes by several numbers of rows, behind short prompts.
            long: a run behind a long prompt.
        """
        steps, prompts = {}, []
        for work, of_prompt, of_step in sorted(short, key=lambda run: run[0].weights):
            steps.setdefault(work.rows, []).append((work.weights, of_step / work.weights))
            prompts.append((work.layer_flops[0], sum(work.layer_flops) / of_prompt))
        plain, (work, of_prompt, of_step) = cls(sorted(steps.items()), sorted(prompts)), long
        return dataclasses.replace(
            plain,
            cache_seconds=max(of_step - plain.step_seconds(work), 0.0) / work.cache_bytes,
            score_seconds=max(of_prompt - plain.prompt_seconds(work), 0.0) / work.scores,
        )

    def step_seconds(self, work):
        """Of a step, which gives a token to each row: along a line over the rows."""
        (few, of_few), *_, (many, of_many) = self.steps
        of_few, of_many = between(of_few, work.weights), between(of_many, work.weights)
        of_weight = of_few + (of_many - of_few) * (work.rows - few) / (many - few)
        return work.weights * of_weight + work.cache_bytes * self.cache_seconds

    def prompt_seconds(self, work):
        """Until a prompt is read and each row has its first token."""
        of_kernels = sum(flops / between(self.prompts, flops) for flops in work.layer_flops)
        return of_kernels + work.scores * self.score_seconds
