"""Generation: `generate` and `stream` continue text, `generate_ids` continues token ids."""

from kerasllm.generation.decoding import generate_ids
from kerasllm.generation.hidden_tokens import fill_mask
from kerasllm.generation.samplers import Sampler
from kerasllm.generation.text import generate, stream
from kerasllm.generation.translation import translate

__all__ = ["Sampler", "fill_mask", "generate", "generate_ids", "stream", "translate"]
