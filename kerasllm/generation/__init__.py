"""Generation: `generate` and `stream` continue text, `chat` answers, `generate_ids` continues token ids."""

from kerasllm.generation.answers import chat, stream_chat
from kerasllm.generation.classifying import Classification, classify
from kerasllm.generation.contrast import Contrast
from kerasllm.generation.decoding import generate_ids
from kerasllm.generation.embedding import embed
from kerasllm.generation.experts import Experts, ExpertsModel
from kerasllm.generation.green_list import GreenList
from kerasllm.generation.hidden_tokens import fill_mask
from kerasllm.generation.prefix import Conversation, Prefix, read_prefix
from kerasllm.generation.rules import LogitsRule
from kerasllm.generation.samplers import Sampler
from kerasllm.generation.self_debiasing import SelfDebias, SelfDebiasedModel
from kerasllm.generation.synth_id import SynthID
from kerasllm.generation.text import generate, stream
from kerasllm.generation.translation import translate

__all__ = [
    "Classification",
    "Contrast",
    "Conversation",
    "Experts",
    "ExpertsModel",
    "GreenList",
    "LogitsRule",
    "Prefix",
    "Sampler",
    "SelfDebias",
    "SelfDebiasedModel",
    "SynthID",
    "chat",
    "classify",
    "embed",
    "fill_mask",
    "generate",
    "generate_ids",
    "read_prefix",
    "stream",
    "stream_chat",
    "translate",
]
