# What `__getattr__` loads on first use, for editors and type checkers, which cannot see it.
from kerasllm import adapters as adapters
from kerasllm import benchmark as benchmark
from kerasllm import callbacks as callbacks
from kerasllm import data as data
from kerasllm import dialogue as dialogue
from kerasllm import evaluation as evaluation
from kerasllm import export as export
from kerasllm import generation as generation
from kerasllm import gguf as gguf
from kerasllm import huggingface as huggingface
from kerasllm import keras_hub as keras_hub
from kerasllm import layers as layers
from kerasllm import losses as losses
from kerasllm import metrics as metrics
from kerasllm import models as models
from kerasllm import optimizers as optimizers
from kerasllm import quantization as quantization
from kerasllm import recipe as recipe
from kerasllm import reinforcement as reinforcement
from kerasllm import runs as runs
from kerasllm import serving as serving
from kerasllm import settings as settings
from kerasllm import tasks as tasks
from kerasllm import tokenizers as tokenizers
from kerasllm import training as training
from kerasllm.generation import chat as chat
from kerasllm.generation import classify as classify
from kerasllm.generation import embed as embed
from kerasllm.generation import fill_mask as fill_mask
from kerasllm.generation import generate as generate
from kerasllm.generation import stream as stream
from kerasllm.generation import stream_chat as stream_chat
from kerasllm.generation import translate as translate
from kerasllm.runs import load as load
from kerasllm.runs import save as save

__version__: str
