"""Inside a model: what happens there, what it is for, and what changes if it were otherwise.

`activations` gives what happens by name, `edit` puts something else in its place. `logit_lens` shows what a model would
say layer by layer, `attention` where it looks, `attribute_logit` which parts made a logit, `saliency` which tokens,
`image_saliency` which parts of an image, `patch` which places carry what differs between two texts, and `head_scores`
what heads do. What they give can be looked
at: `figure`, `html`, `save`, and in notebooks by itself. `steer` has a model write with more of a property,
`project_out` without what tells groups apart, `neutralize` has words say nothing of that.
"""

from kerasllm.interpret.attention_heads import HeadScores, head_scores
from kerasllm.interpret.attention_maps import Attention, AttentionMap, attention
from kerasllm.interpret.attribution import Attribution, attribute_logit
from kerasllm.interpret.editing import edit, names
from kerasllm.interpret.explanation import explain
from kerasllm.interpret.input_saliency import Saliency, saliency
from kerasllm.interpret.lens import LogitLens, logit_lens
from kerasllm.interpret.neutral_words import neutralize
from kerasllm.interpret.patch_saliency import ImageSaliency, image_saliency
from kerasllm.interpret.patching import Patching, patch
from kerasllm.interpret.projection import Subspace, bias_subspace, project_out
from kerasllm.interpret.recording import activations
from kerasllm.interpret.shown_tokens import token_texts
from kerasllm.interpret.steering import SteeringEffect, SteeringVector, steer, steering_effect, steering_vector

__all__ = [
    "Attention",
    "AttentionMap",
    "Attribution",
    "HeadScores",
    "ImageSaliency",
    "LogitLens",
    "Patching",
    "Saliency",
    "SteeringEffect",
    "SteeringVector",
    "Subspace",
    "activations",
    "attention",
    "attribute_logit",
    "bias_subspace",
    "edit",
    "explain",
    "head_scores",
    "image_saliency",
    "logit_lens",
    "names",
    "neutralize",
    "patch",
    "project_out",
    "saliency",
    "steer",
    "steering_effect",
    "steering_vector",
    "token_texts",
]
