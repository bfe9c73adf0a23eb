"""Checkpoints of models that see, which transformers wrote: the same logits, the same texts, and back."""

import numpy as np
import pytest

import kerasllm
from kerasllm.generation import generate_ids
from kerasllm.huggingface.choosing import logit_fields
from kerasllm.huggingface.pictures import SIGHTED
from kerasllm.huggingface.pictures.encoders import computed
from kerasllm.models import ContrastiveModel, ImageClassifier, VisionLanguageModel
from kerasllm.tokenizers import Tokenizer

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install kerasllm[parity]")
from safetensors.numpy import load_file  # noqa: E402

pytestmark = pytest.mark.parity

V, IMAGE, T, END = 61, 60, 12, 59


def half(layers, width, heads, inner, **more):
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        **more,
    }


def text(kind=None, **more):
    return {"vocab_size": V, "max_position_embeddings": 64, **({"model_type": kind} if kind else {}), **more}


EYES = [
    half(2, 24, 3, 40, image_size=16, patch_size=4),
    half(3, 20, 2, 28, image_size=20, patch_size=5, layer_norm_eps=1e-3),
    half(2, 32, 4, 52, image_size=18, patch_size=4, hidden_act="relu"),  # two pixels at the edge are not seen
]
EVEN = [EYES[0], half(3, 20, 2, 28, image_size=24, patch_size=4, layer_norm_eps=1e-3)]
MATCHED = [
    text(**half(2, 24, 3, 40), eos_token_id=END),
    text(**half(1, 28, 2, 44), eos_token_id=2),
    text(**half(3, 32, 4, 52), eos_token_id=END, hidden_act="gelu"),
]
LLAMA = half(2, 24, 3, 40, num_key_value_heads=1)
CASES = {
    "vit": [
        {**EYES[0], "num_labels": 3},
        {**EYES[1], "qkv_bias": False, "id2label": {"0": "cat", "1": "dog"}},
        {**EYES[2], "num_channels": 3},
    ],
    "clip": [
        {"vision_config": eyes, "text_config": t, "projection_dim": 20} for eyes, t in zip(EYES, MATCHED, strict=True)
    ],
    "siglip": [
        {"vision_config": eyes, "text_config": {**t, "projection_size": eyes["hidden_size"]}}
        for eyes, t in zip(EYES, MATCHED, strict=True)
    ],
    "llava": [
        {"vision_config": {"model_type": "clip_vision_model", **EYES[0]}, "text_config": text("llama", **LLAMA)},
        {
            "vision_config": {"model_type": "clip_vision_model", **EYES[1]},
            "text_config": text("mistral", **half(1, 32, 4, 52, num_key_value_heads=2), sliding_window=7),
            "vision_feature_layer": 1,
            "vision_feature_select_strategy": "full",
            "projector_hidden_act": "relu",
            "multimodal_projector_bias": False,
        },
        {
            "vision_config": {"model_type": "siglip_vision_model", **EYES[2]},
            "text_config": text("qwen2", **LLAMA, tie_word_embeddings=True),
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
    ],
    "paligemma": [
        {
            "vision_config": {"model_type": "siglip_vision_model", **EYES[0]},
            "text_config": text("gemma", **LLAMA, head_dim=8),
        },
        {
            "vision_config": {"model_type": "siglip_vision_model", **EYES[1], "vision_use_head": False},
            "text_config": text("gemma2", **half(2, 32, 4, 52, num_key_value_heads=2, head_dim=10), sliding_window=40),
        },
    ],
    "idefics3": [
        {"vision_config": EVEN[0], "text_config": text("llama", **LLAMA), "scale_factor": 2},
        {"vision_config": EVEN[1], "text_config": text("mistral", **LLAMA), "scale_factor": 3},
    ],
    "smolvlm": [
        {"vision_config": EVEN[0], "text_config": text("llama", **LLAMA), "scale_factor": 4},
        {
            "vision_config": EVEN[1],
            "text_config": text("llama", **LLAMA, tie_word_embeddings=True),
            "tie_word_embeddings": True,
            "scale_factor": 2,
        },
    ],
    "gemma3": [
        {
            "vision_config": {"model_type": "siglip_vision_model", **EVEN[0]},
            "text_config": text("gemma3_text", **LLAMA, head_dim=8, sliding_window=3),
            "mm_tokens_per_image": 4,
        },
        {
            "vision_config": {"model_type": "siglip_vision_model", **EVEN[1]},
            "text_config": text("gemma3_text", **half(6, 32, 4, 52, num_key_value_heads=2, head_dim=10)),
            "mm_tokens_per_image": 9,
        },
    ],
}
for kind in ("llava", "paligemma", "gemma3"):
    CASES[kind] = [{**case, "image_token_index": IMAGE} for case in CASES[kind]]
for kind in ("idefics3", "smolvlm"):
    CASES[kind] = [{**case, "image_token_id": IMAGE} for case in CASES[kind]]
for kind in ("paligemma",):
    CASES[kind] = [{**case, "projection_dim": case["text_config"]["hidden_size"]} for case in CASES[kind]]
assert CASES.keys() == {"vit", *SIGHTED}
ARCHITECTURES = {"vit": "ViTForImageClassification"} | {kind: family.architecture for kind, family in SIGHTED.items()}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["".join(chr(ord("a") + i) for i in range(26))], kind="char", progress=False)


@pytest.fixture(
    scope="module", params=[(k, i) for k in CASES for i in range(len(CASES[k]))], ids=lambda p: f"{p[0]}-{p[1]}"
)
def checkpoint(request, tmp_path_factory, tokenizer):
    """A model of transformers with weights far from their initial values, and the folder it was saved to."""
    kind, number = request.param
    torch.manual_seed(number)
    config = transformers.CONFIG_MAPPING[kind](**CASES[kind][number], attn_implementation="eager")
    model = getattr(transformers, ARCHITECTURES[kind])(config).eval()
    for name, parameter in model.named_parameters():
        is_scale = "norm" in name.lower() and name.endswith("weight") and not kind.startswith(("gemma", "pali"))
        parameter.data.normal_(1.0 if is_scale else 3.0 if name == "logit_scale" else 0.0, 0.2)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    if kind != "vit":
        tokenizer.save(folder)
    return model, folder


def inputs_of(ours):
    """What ours is called with: two pictures, and texts in which they stand."""
    vision = ours.vision_encoder.config
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, vision.image_size, vision.image_size, 3)).astype("float32")
    ids = rng.integers(5, END, (2, T))
    if isinstance(ours, VisionLanguageModel):
        ids = np.concatenate([ids[:, :2], np.full((2, ours.tokens_per_image), IMAGE), ids[:, 2:]], axis=1)
    if isinstance(ours, ContrastiveModel):
        ids[0, 7] = ids[1, 4] = END
    return {"token_ids": ids, "pixel_values": pixels}


@torch.no_grad()
def logits_of(theirs, inputs, ids=None, prompt=0):
    """Theirs; of ids whose first tokens are a prompt, which PaliGemma sees both ways."""
    kind, pixels = theirs.config.model_type, torch.tensor(inputs["pixel_values"]).permute(0, 3, 1, 2)
    ids = torch.tensor(inputs["token_ids"] if ids is None else ids)
    if kind == "vit":
        return theirs(pixels).logits.numpy()
    if kind in ("clip", "siglip"):
        return theirs(input_ids=ids, pixel_values=pixels).logits_per_image.numpy()
    more = {}
    if kind == "gemma3":
        more = {"token_type_ids": (ids == IMAGE).long()}
    if kind == "paligemma":
        seen = (ids == IMAGE).flip(1).cumsum(1).flip(1) > 0
        if prompt:
            seen = torch.arange(ids.shape[1])[None] < prompt
        more = {"token_type_ids": 1 - seen.long()}
    pixels = pixels[:, None] if kind in ("idefics3", "smolvlm") else pixels
    return theirs(input_ids=ids, pixel_values=pixels, **more).logits.numpy()


def our_logits(ours, inputs):
    return np.array(ours(inputs["pixel_values"] if isinstance(ours, ImageClassifier) else inputs))


def test_logits_are_the_same(checkpoint):
    theirs, folder = checkpoint
    ours, _ = kerasllm.huggingface.load(folder)
    inputs = inputs_of(ours)
    expected = logits_of(theirs, inputs)
    assert np.std(expected) > 0.1
    assert np.abs(our_logits(ours, inputs) - expected).max() < 1e-4


def test_what_is_saved_is_the_same_checkpoint(checkpoint, tmp_path):
    theirs, folder = checkpoint
    ours, tokenizer = kerasllm.huggingface.load(folder)
    inputs = inputs_of(ours)
    kerasllm.huggingface.save(ours, tokenizer, tmp_path / "saved")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "saved"))
    for name, array in after.items():
        assert before[name].shape == array.shape, name
        assert not array.any() or np.abs(before[name] - array).max() < 1e-6, name
    left_out = before.keys() - after.keys()  # what says nothing of the logits
    assert all(".head." in name or ".encoder.layers." in name for name in left_out)
    auto = getattr(transformers, ARCHITECTURES[theirs.config.model_type])
    again, report = auto.from_pretrained(tmp_path / "saved", attn_implementation="eager", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert np.abs(logits_of(again.eval(), inputs) - logits_of(theirs, inputs)).max() < 1e-5
    both = [kerasllm.huggingface.load(path)[0] for path in (folder, tmp_path / "saved")]
    for name in ours.settings:
        one, other = (getattr(model, name) for model in both)
        assert (computed(one) == computed(other)) if name == "vision" else one == other
    if theirs.config.model_type != "vit":
        assert logit_fields(both[0].config) == logit_fields(both[1].config)


def test_greedy_text_is_the_same(checkpoint):
    theirs, folder = checkpoint
    ours, _ = kerasllm.huggingface.load(folder)
    if not isinstance(ours, VisionLanguageModel):
        pytest.skip("it writes nothing")
    inputs = {name: value[:1] for name, value in inputs_of(ours).items()}
    prompt = inputs["token_ids"][0].tolist()
    given = {"token_ids": prompt, "pixel_values": inputs["pixel_values"]}
    written = generate_ids(ours, given, max_new_tokens=12, suppress_tokens=[IMAGE])
    logits = logits_of(theirs, inputs, np.array([prompt + written]), prompt=len(prompt))[0, len(prompt) - 1 : -1]
    logits[:, IMAGE] = -np.inf
    best, second = np.sort(logits, axis=-1)[:, ::-1][:, :2].T
    close = (best - second < 1e-3).tolist()
    sure = close.index(True) if True in close else len(close)
    assert sure > 1
    assert logits.argmax(-1).tolist()[:sure] == written[:sure]
