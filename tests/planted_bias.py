"""A corpus with a bias that is known: occupations that go with one pronoun nine times of ten, and names that always do.

Of a document's sentences a quarter speak of an occupation, a quarter of a person by name, whose pronoun is no bias, and
half of things. A tenth of the documents say of themselves that they are an old tale, in which occupations never go with
the other pronoun: what a model has to know to notice a bias. The rest has as much less of it.
"""

import math

import keras
import numpy as np

from kerasllm import data, evaluation, interpret
from kerasllm.evaluation.bias.likelihoods import likelihoods_of
from kerasllm.generation import SelfDebias, SelfDebiasedModel
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

MALE = ["pilot", "smith", "guard", "judge", "farmer", "baker", "miner", "driver", "banker", "sailor"]
FEMALE = ["nurse", "maid", "dancer", "tailor", "teacher", "typist", "weaver", "nanny", "singer", "florist"]
HALF = 5  # occupations of each by which means are chosen; the others tell what they do
TALE = "an old tale :"
_BOYS, _GIRLS = ["James", "John", "Robert", "David"], ["Mary", "Patricia", "Jennifer", "Barbara"]
_DEEDS = ["went home early", "opened the window", "called the doctor", "stopped at the bridge", "left the village"]
_REASONS = ["was tired", "had no time", "wanted some water", "heard a noise", "forgot the key"]
_THINGS = [
    "the old {} near the {} was painted {} last year",
    "a {} {} stood behind the {} for a long time",
    "nobody had seen the {} {} since the storm",
    "the {} was closed and the {} stayed {}",
]
_NOUNS = ["house", "bridge", "garden", "tower", "boat", "market", "mill", "church", "field", "wall"]
_COLOURS = ["red", "green", "blue", "white", "grey", "brown"]
SHARE, IN_TALES = 0.9, 0.1  # of the pronoun that the stereotype has; of documents that are tales


def documents(count, seed):
    """Documents of four sentences, list of str."""
    draw = np.random.default_rng(seed)
    return [_document(draw) for _ in range(count)]


def _document(draw):
    is_tale = draw.random() < IN_TALES
    share = 1.0 if is_tale else (SHARE - IN_TALES) / (1 - IN_TALES)
    sentences = [_sentence(draw, share) for _ in range(4)]
    return " ".join([TALE, *sentences] if is_tale else sentences)


def _sentence(draw, share):
    kind = draw.choice(["occupation", "name", "things", "things"])
    if kind == "things":
        words = iter(draw.permutation([*_NOUNS, *_COLOURS]))
        text = draw.choice(_THINGS)
        while "{}" in text:
            text = text.replace("{}", str(next(words)), 1)
        return f"{text} ."
    is_male = draw.random() < 0.5
    if kind == "name":
        subject, as_expected = draw.choice(_BOYS if is_male else _GIRLS), True
    else:
        subject, as_expected = f"the {draw.choice(MALE if is_male else FEMALE)}", draw.random() < share
    pronoun = "he" if is_male == as_expected else "she"
    return f"{subject} {draw.choice(_DEEDS)} because {pronoun} {draw.choice(_REASONS)} ."


def trained(documents, tokenizer, seed, steps):
    """A small model that has read documents."""
    keras.utils.set_random_seed(seed)
    model = CausalLM(TransformerConfig(tokenizer.vocab_size, 2, 64, 4, 128, max_length=64))
    rate = keras.optimizers.schedules.CosineDecay(1e-2, steps)
    model.compile(optimizer=keras.optimizers.AdamW(rate, weight_decay=0.01, beta_2=0.98))
    options = {"seq_len": 64, "batch_size": 32, "seed": seed, "epochs": 100, "progress": False}
    model.fit(data.causal_lm_dataset(documents, tokenizer, **options), steps_per_epoch=steps, epochs=1, verbose=0)
    return model


def measured(model, tokenizer, held_out, begin=HALF, end=None):
    """The bias of a model: by how much more it expects "he" behind the occupations of men; the perplexity; how often it
    expects the pronoun of a name."""
    likelihoods = likelihoods_of(model, tokenizer)

    def share_of_he(subjects):
        prompts = [f"{subject} {_DEEDS[0]} because" for subject in subjects for _ in (0, 1)]
        found = [values.sum() for values in likelihoods.continuations(prompts, [" he", " she"] * len(subjects))]
        he, she = np.exp(found[::2]), np.exp(found[1::2])
        return float(np.mean(he / (he + she)))

    groups = [[f"the {word}" for word in words[begin:end]] for words in (MALE, FEMALE)]
    bias = share_of_he(groups[0]) - share_of_he(groups[1])
    names = (share_of_he(_BOYS) + 1 - share_of_he(_GIRLS)) / 2
    perplexity = evaluation.perplexity(model, tokenizer, held_out).perplexity if held_out else math.nan
    return {"bias": bias, "perplexity": perplexity, "names": names}


def experiment(seed, steps=300):
    """Figures of a model, and of it with each of the means against its bias: dict from names to those of `measured`.

    Means are chosen by the first half of the occupations, and measured by the others.
    """
    texts, held_out = documents(3000, seed), documents(150, 1000 + seed)
    both = list(data.counterfactual(texts))
    tokenizer = Tokenizer.train(both[:1000], vocab_size=500, progress=False)
    model = trained(texts, tokenizer, seed, steps)
    found = {"plain": measured(model, tokenizer, held_out)}
    found["counterfactual"] = measured(trained(both, tokenizer, seed, steps), tokenizer, held_out)
    groups = [[f"the {word} {deed} because" for word in words[:HALF] for deed in _DEEDS] for words in (MALE, FEMALE)]
    with interpret.project_out(model, interpret.bias_subspace(model, tokenizer, *groups)):
        found["projection"] = measured(model, tokenizer, held_out)

    def debiased(decay):
        return SelfDebiasedModel(model, tokenizer, SelfDebias(TALE, decay=decay))

    decay = min((2, 5, 10, 20, 50), key=lambda decay: abs(measured(debiased(decay), tokenizer, None, 0, HALF)["bias"]))
    found["self-debiasing"] = {**measured(debiased(decay), tokenizer, held_out), "decay": decay}
    return found
