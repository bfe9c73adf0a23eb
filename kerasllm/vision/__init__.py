"""Pictures to vectors: a Transformer over patches, and what makes its vectors those of a language model.

vision_config.py        `VisionConfig`: what an encoder is
patches.py              pictures cut into patches, and where these are
attention_pooling.py    one vector of all patches, by attention
vision_transformer.py   `VisionTransformer`: the encoder
projector.py            `Projector` and `ProjectorConfig`: vectors of patches to vectors that stand for image tokens
"""

from kerasllm.vision.projector import Projector, ProjectorConfig
from kerasllm.vision.vision_config import VisionConfig
from kerasllm.vision.vision_transformer import VisionTransformer

__all__ = ["Projector", "ProjectorConfig", "VisionConfig", "VisionTransformer"]


def __dir__():  # what completion shows
    return __all__
