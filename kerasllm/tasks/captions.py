"""What a model that sees learns from and is measured by: rows of tokens, losses, and what it writes of images."""

import kerasllm
from kerasllm.tasks.seeing import by_image

ANSWER_TOKENS = 64  # of a caption, at most
_AT_ONCE = 32  # images that are written of


class ImageRows:
    """Examples as rows of tokens, written as `kerasllm.data.image_prompt` asks of images.

    Args:
        tokenizer: the model's.
        processor: its `ImageProcessor`, with `tokens`.
        attention: str, the model's.
    """

    def __init__(self, tokenizer, processor, attention):
        self._common, self._prefix = (tokenizer, processor), attention == "prefix"

    def written(self, examples):
        """The examples, as chats where the tokenizer writes such, since that is how the model is asked."""
        tokenizer, _ = self._common
        return examples if tokenizer.chat_template is None else [_as_chat(example) for example in examples]

    def longest(self, examples, most):
        """Tokens of a row that has place for the longest example; `most` where there is a longer one."""
        from kerasllm.data.image_prompts import ImageWriter

        writer = ImageWriter(*self._common, None)
        lengths = (len(writer.encode(one, [writer.shown(image) for image in one["images"]])[0]) for one in examples)
        return min(max(lengths) - 1, most)

    def dataset(self, examples, seq_len, batch_size, **options):
        """As `kerasllm.data.image_text_dataset`."""
        return kerasllm.data.image_text_dataset(
            examples, *self._common, seq_len, batch_size, prefix=self._prefix, **options
        )


def caption_figures(model, tokenizer, processor, examples, batch_size, most=None):
    """Measures a compiled model on examples.

    Args:
        most: int or None, of how many images it writes at most.

    Returns:
        A dict: the loss, and what it is where each text stands beside an image of another; of what is no chat, what
        `caption_scores` finds; and of how much that is.
    """
    rows = ImageRows(tokenizer, processor, model.attention)

    def loss_of(examples):
        written = rows.written(examples)
        seq_len = rows.longest(written, model.config.max_length)
        data = rows.dataset(written, seq_len, min(batch_size, len(written)), shuffle=False)
        return model.evaluate(data, verbose=0, return_dict=True)["loss"]

    groups = by_image(examples)
    others = [
        {**example, "images": other[0]["images"]}
        for group, other in zip(groups, groups[1:] + groups[:1], strict=True)
        for example in group
        if len(example["images"]) == len(other[0]["images"])
    ]
    figures = {
        "loss": loss_of(examples),
        "loss_of_other_images": loss_of(others) if len(groups) > 1 and others else None,
    }
    scores, count = _written_scores(model, tokenizer, processor, groups, most)
    return {**figures, **scores, "written_of": count, "images": len(groups), "texts": len(examples)}


def _written_scores(model, tokenizer, processor, groups, most):
    """What `caption_scores` finds, and of how many images."""
    asked = {}  # what is said of an image, or what is answered to each question about it
    for group in groups:
        for example in group:
            if "text" in example:
                question = (id(group), example.get("prompt", ""))
                asked.setdefault(question, (example, []))[1].append(example["text"])
    asked = list(asked.values())[:most]
    if not asked:
        return {}, 0
    texts = []
    for begin in range(0, len(asked), _AT_ONCE):
        prompts = [
            kerasllm.data.image_prompt(tokenizer, processor, list(one["images"]), one.get("prompt", ""))
            for one, _ in asked[begin : begin + _AT_ONCE]
        ]
        room = model.config.max_length - max(len(prompt["token_ids"]) for prompt in prompts)
        texts += kerasllm.generate(model, tokenizer, prompts, max_new_tokens=max(min(ANSWER_TOKENS, room), 1))
    texts, references = [text.strip() for text in texts], [said for _, said in asked]
    longest = max(len(text.split()) for said in references for text in said)
    found = {
        "exact_match": kerasllm.evaluation.exact_match(texts, references),
        "bleu": kerasllm.evaluation.bleu(texts, references).score if longest > 3 else None,  # it counts 4-grams
        "cider": kerasllm.evaluation.cider(texts, references).score if len(asked) > 1 else None,
    }
    return found, len(asked)


def _as_chat(example):
    """A text, or the answer to a question, as the answer to a message of a user."""
    if "messages" in example:
        return example
    question = [{"type": "text", "text": example["prompt"]}] if example.get("prompt") else []
    content = [{"type": "image"} for _ in example["images"]] + question
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": example["text"]}]
    return {"images": example["images"], "messages": messages}
