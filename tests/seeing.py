"""A tiny model that sees, with what it needs to chat."""

from oracles import scramble

from kerasllm.images import ImageProcessor, ImageTokens
from kerasllm.models import TransformerConfig, VisionLanguageModel
from kerasllm.tokenizers import Tokenizer
from kerasllm.vision import VisionConfig

# Templates as families have them: parts in order; images before texts; a str and nothing else.
IN_ORDER = (
    "{% for m in messages %}{{ m.role[0] }}:{% for part in m.content %}{% if part.type == 'image' %}<image>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
IMAGES_FIRST = (
    "{% for m in messages %}{{ m.role[0] }}:{% for p in m.content | selectattr('type', 'equalto', 'image') %}<image>\n"
    "{% endfor %}{% for p in m.content | selectattr('type', 'equalto', 'text') %}{{ p.text }}{% endfor %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
STRINGS = "{% for m in messages %}{{ m.role[0] + ':' + m.content }}{{ eos_token }}{% endfor %}a:"


def chatting_tokenizer(template=IN_ORDER, more=()):
    letters = "abcdefghijklmnopqrstuvwxyz?:! <>_1234567890\nYFHMS[].UA"
    tokens = ["<image>", "<fake_token_around_image>", "<global-img>"]
    tokens += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokens += more
    tokenizer = Tokenizer.train([letters], kind="char", special_tokens=tokens, progress=False)
    tokenizer.chat_template = template
    return tokenizer


def seeing_model(attention="causal", max_length=128, template=IN_ORDER):
    """A model of random weights, 4 tokens for an image of 8 x 8 pixels, and its tokenizer."""
    tokenizer = chatting_tokenizer(template)
    (image,) = tokenizer.encode("<image>", parse_special=True)
    config = TransformerConfig(
        tokenizer.vocab_size, 2, 32, 4, 64, num_kv_heads=2, max_length=max_length, tie_embeddings=False
    )
    vision = VisionConfig(8, 4, num_layers=1, d_model=16, num_heads=2, dff=24)
    model = VisionLanguageModel(config, vision, {"kind": "linear"}, image, attention=attention)
    model.image_processor = ImageProcessor(8, mean=0.0, std=0.25, tokens=ImageTokens(4))
    scramble(model, seed=24)  # of those whose texts are no one letter
    model.image_projector.outer.kernel.assign(4 * model.image_projector.outer.kernel)  # what is seen is to matter
    return model, tokenizer
