"""One page about a prediction: the lens, what made the logit, which tokens meant most, and where heads looked."""

from pathlib import Path

from kerasllm.files import replacing
from kerasllm.interpret import fragments
from kerasllm.interpret.attention_maps import attention_of
from kerasllm.interpret.attribution import attribute_logit
from kerasllm.interpret.input_saliency import saliency_of
from kerasllm.interpret.lens import lens_of
from kerasllm.interpret.patch_saliency import image_saliency
from kerasllm.interpret.reading import ask, read
from kerasllm.models import SequenceClassifier

_MOST_ATTRIBUTED = 8  # tokens of a target for which parts are shown


def explain(
    model,
    tokenizer,
    text,
    target=None,
    path=None,
    *,
    contrast=None,
    method="integrated_gradients",
    image=None,
    processor=None,
):
    """One page about a prediction: the lens, what made each logit, which tokens meant most, and where heads looked.

    Args:
        model: `CausalLM`, `MaskedLM`, `Seq2SeqLM` or `SequenceClassifier`.
        tokenizer: the model's `Tokenizer`, or a pair (source, target).
        text, target, contrast, method: as in `saliency`.
        path: where to write the page, a file that ends in .html; or None.
        image, processor: of a `VisionLanguageModel`, as in `image_saliency`. The page then shows what of the image and
            of the text speaks for the target, and where the model looked.

    Returns:
        str, the page.

    Raises:
        TypeError: for other models.
        ValueError: for a target that is not possible.

    Example:
        >>> page = interpret.explain(model, tokenizer, "The class of a thing", " is", "why.html")
    """
    if path is not None and Path(path).suffix.lower() != ".html":
        raise ValueError(f"The page is a file that ends in .html, got {str(path)!r}.")
    if image is not None:
        options = {"processor": processor, "contrast": contrast, "method": method}
        return _written(_of_image(image_saliency(model, tokenizer, image, text, target, **options)), path)
    read_text = read(model, tokenizer, text, target)
    question = ask(model, read_text, target, contrast)
    found = saliency_of(model, read_text, question, method)
    sections = [("", _prediction(read_text, question)), ("Which tokens meant most", found.html())]
    if not isinstance(model, SequenceClassifier):
        sections.append(("What it would say after each layer", lens_of(model, read_text).html()))
        sections += _attributions(model, read_text, question)
    sections.append(("Where it looked", attention_of(model, read_text).html()))
    return _written(sections, path)


def _of_image(found):
    answers = "".join(map(fragments.token, found.text.targets))
    return [
        ("", f"<p>Why <strong>{answers}</strong>?</p>"),
        ("What of the image meant most, and where it looked", found.html()),
        ("Which tokens meant most", found.text.html()),
    ]


def _written(sections, path):
    page = fragments.page("Why?", sections)
    if path is not None:
        with replacing(Path(path)) as draft:
            draft.write_text(page, encoding="utf-8")
    return page


def _prediction(text, question):
    """What was read and what is explained."""
    read_tokens = " → ".join("".join(map(fragments.token, side)) for side in text.sides.values())
    answers = "".join(map(fragments.token, question.target_texts))
    shares = " · ".join(f"{share:.1%}" for share in question.probabilities)
    against = "".join(map(fragments.token, question.contrast_texts))
    against = f"<p>in place of <strong>{against}</strong></p>" if against else ""
    return f"<p>{read_tokens}</p><p>Why <strong>{answers}</strong>? (probability {shares})</p>{against}"


def _attributions(model, text, question):
    """A section for each token of the target, of which parts of the model made its logit."""
    for number, token in enumerate(question.targets[:_MOST_ATTRIBUTED]):
        contrast = question.contrasts[number] if question.contrasts else None
        parts = attribute_logit(model, text.inputs, question.positions[number], token, contrast=contrast)
        yield f"What made the logit of {question.target_texts[number]}", parts.html()
