"""Gradients of a model of transformers, held against what a step of ours moved."""

import numpy as np
import torch

import kerasllm


def check_step(ours, before, theirs, tokenizer_json, folder):
    """A step of SGD at a rate of 1 from the weights `before`, by what torch's backward pass left in `theirs`."""
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(weight.grad)
    theirs.save_pretrained(folder)  # as weights, so that they have the names and forms of ours
    (folder / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())
    gradients, _ = kerasllm.huggingface.load(folder)
    for weight, was, gradient in zip(ours.weights, before, gradients.weights, strict=True):
        found, expected = was - np.array(weight), np.array(gradient)
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected) + 1e-6, weight.path
