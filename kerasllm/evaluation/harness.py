"""A model of ours in EleutherAI's lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness).

Requests become ids as the harness' own `hf` model makes them, so that both give the same numbers for the same weights.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

from lm_eval import evaluator
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

import kerasllm
from kerasllm.evaluation.respondent import Respondent
from kerasllm.models import CausalLM
from kerasllm.tokenizers.chat_template import render_chat, token_names

_NEW_TOKENS = 256
_DRAWING = ("temperature", "top_k", "top_p", "min_p")


@register_model("kerasllm")
class HarnessModel(TemplateLM):
    """A `CausalLM` and its tokenizer, as the harness asks models.

    Args:
        path: str, what `kerasllm.load` reads.
        batch_size: int, the most texts that are read or continued at once; "auto" for 32.
        quantize: as for `kerasllm.load`.
        model, tokenizer: a `CausalLM` and its `Tokenizer`, in place of `path`.
        **_: what the harness tells models of torch, such as a device.

    Raises:
        TypeError: if the model is not a `CausalLM`.
    """

    def __init__(self, path=None, batch_size=32, *, quantize=None, model=None, tokenizer=None, **_):
        super().__init__()
        if model is None:
            model, tokenizer = kerasllm.load(path, quantize=quantize)
        self._respondent = Respondent(model, tokenizer, 32 if batch_size == "auto" else int(batch_size))
        self.tokenizer = tokenizer
        self._reads_special = False

    @property
    def eot_token_id(self):
        return self.tokenizer.end_id

    @property
    def prefix_token_id(self):
        """What stands before a text of which all tokens are scored."""
        return self._respondent.prefix

    @property
    def max_length(self):
        return self._respondent.max_length

    @property
    def tokenizer_name(self):
        return self.tokenizer.fingerprint()

    def tok_encode(self, string, add_special_tokens=None, **_):
        """Ids of a text: with what the tokenizer puts around texts, unless it is there already or not wanted."""
        bare = None if add_special_tokens is None else not add_special_tokens
        return self._respondent.encode(string, parse_special=self._reads_special, bare=bare)

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        """The text of a chat; special tokens are read as such from then on, as the harness hands texts back."""
        self._reads_special = True
        open_end = {} if add_generation_prompt else {"continue_final_message": True}
        names = token_names(self.tokenizer)
        return render_chat(self.tokenizer.chat_template, chat_history, **open_end, **names)

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        """Log-probabilities of whole texts, of which each token is predicted once."""
        windows, counts = [], []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            found = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            pairs = [(None, *make_disjoint_window(pair)) for pair in found]
            windows += pairs
            counts.append(len(pairs))
        scores = (score for score, _ in self._loglikelihood_tokens(windows, disable_tqdm))
        return [sum(itertools.islice(scores, count)) for count in counts]

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, **_):
        pairs = [(context, continuation) for _, context, continuation in requests]
        return self._respondent.log_likelihoods(pairs, cut=True, show=not disable_tqdm)

    def generate_until(self, requests, disable_tqdm=False):
        """Continuations up to, and without, the first of some texts."""
        found = [None] * len(requests)
        asked = sorted(enumerate(request.args for request in requests), key=lambda x: str(x[1][1]))
        for _, group in itertools.groupby(asked, key=lambda x: str(x[1][1])):
            rows, arguments = zip(*group, strict=True)
            prompts = [self.tok_encode(text) for text, _ in arguments]
            settings = normalize_gen_kwargs(arguments[0][1], _NEW_TOKENS)
            options = {"stop": settings["until"] or None}
            if settings["do_sample"]:
                options |= {name: settings[name] for name in _DRAWING if name in settings}
            texts = self._respondent.continuations(prompts, settings["max_gen_toks"], show=not disable_tqdm, **options)
            for row, text in zip(rows, texts, strict=True):
                found[row] = text
        return found


def harness_scores(
    model: CausalLM,
    tokenizer,
    tasks: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    batch_size: int = 32,
) -> dict:
    """The scores of tasks of lm-evaluation-harness.

    Args:
        model: `CausalLM`.
        tokenizer: its `Tokenizer`.
        tasks: names that the harness knows, and YAML files or folders of tasks of your own.
        num_fewshot: int, examples before each question; None means what the task says.
        limit: int, the most questions of each task.
        chat: bool, whether questions are put by the tokenizer's chat template.
        batch_size: int.

    Returns:
        dict from the names of tasks to dicts of their measures: "acc", "acc_stderr" and so on.

    Example:
        >>> harness_scores(model, tokenizer, ["my_tasks/"], limit=100)["cloze"]["acc"]
    """
    folders = [str(Path(task)) for task in tasks if Path(task).is_dir()]
    names = [task for task in tasks if not Path(task).is_dir()]
    manager = TaskManager(include_path=folders or None, include_defaults=bool(names))
    if folders:
        own = TaskManager(include_path=folders, include_defaults=False)
        names += own.all_tasks
    found = evaluator.simple_evaluate(
        HarnessModel(model=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=names,
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=chat,
        task_manager=manager,
    )
    return {
        task: {name.removesuffix(",none"): value for name, value in scores.items() if isinstance(value, int | float)}
        for task, scores in found["results"].items()
    }


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
