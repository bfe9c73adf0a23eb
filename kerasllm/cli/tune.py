"""`kerasllm tune`: training that begins with a model, with the settings that mean something then."""

from kerasllm.cli.train import run

__all__ = ["run"]
