"""`--task masked`: a model learns to name the tokens of a text that were hidden."""

import dataclasses

import kerasllm
from kerasllm.tasks.task import SAMPLE
from kerasllm.tasks.text import TextTask


class MaskedTask(TextTask):
    """Hidden tokens, scored by how many of them are named rightly."""

    name = "masked"
    learns = "names the tokens that were hidden"
    function = "fill_mask"
    scored_by = "masked_accuracy"
    command = "evaluate --model {} --data YOUR_TEXT.txt"
    planned_as = {"causal": False}
    special_tokens = ("<|mask|>",)

    @staticmethod
    def model_class():
        return kerasllm.models.MaskedLM

    @staticmethod
    def make_dataset(*args, **options):
        return kerasllm.data.masked_lm_dataset(*args, **options)

    @staticmethod
    def score_corpus(model, tokenizer, corpus):
        return dataclasses.asdict(kerasllm.evaluation.masked_accuracy(model, tokenizer, corpus))

    @staticmethod
    def rows(figures):
        yield "loss, nats per hidden token", f"{figures['loss']:,.4f}"
        yield "hidden tokens named rightly", f"{figures['accuracy']:.2%}"
        yield "by naming the most frequent one", f"{figures['baseline_accuracy']:.2%}"
        yield "measured on", f"{figures['tokens']:,} hidden tokens"

    @staticmethod
    def served(model, tokenizer, text):
        from kerasllm.export import mask_filler

        return mask_filler.ServedMaskFiller(model, tokenizer) if text else mask_filler.ServedIds(model)

    @staticmethod
    def compared(model, tokenizer, signatures):
        import tensorflow as tf

        if "fill_mask" not in signatures:
            return None
        text = f"{SAMPLE} {tokenizer.special_tokens['mask']}"
        made = signatures["fill_mask"](text=tf.constant([text]), top_k=tf.constant(3))["token"][0].numpy()
        (expected,) = kerasllm.fill_mask(model, tokenizer, text, top_k=3)
        return [token.decode() for token in made], [token for token, _ in expected]
