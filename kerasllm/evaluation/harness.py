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
from kerasllm.generation.endings import score_endings
from kerasllm.generation.text import generate
from kerasllm.models import CausalLM
from kerasllm.progress import progress_bar
from kerasllm.tokenizers.chat_template import render_chat, token_names

_LOGITS_AT_ONCE = 2**26  # 256 MB in float32
_NEW_TOKENS = 256


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
        if not isinstance(model, CausalLM):
            raise TypeError(f"Tasks of lm_eval are for a CausalLM, got a {type(model).__name__}.")
        self.model, self.tokenizer = model, tokenizer
        self._batch_size = 32 if batch_size == "auto" else int(batch_size)
        self._reads_special = False

    @property
    def eot_token_id(self):
        return self.tokenizer.end_id

    @property
    def prefix_token_id(self):
        """What stands before a text of which all tokens are scored."""
        start, end = self.tokenizer.start_id, self.tokenizer.end_id
        return end if start is None else start

    @property
    def max_length(self):
        return self.model.config.max_length

    @property
    def tokenizer_name(self):
        return self.tokenizer.fingerprint()

    def tok_encode(self, string, add_special_tokens=None, **_):
        """Ids of a text: with what the tokenizer puts around texts, unless it is there already or not wanted."""
        start = self.tokenizer.start_id
        is_begun = start is not None and string.startswith(self.tokenizer.decode([start], skip_special=False))
        bare = is_begun if add_special_tokens is None else not add_special_tokens
        return next(self.tokenizer.encode_stream([string], self._reads_special or is_begun, bare)).tolist()

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
        """Pairs of the log-probability of a continuation and whether greedy decoding writes it. Contexts that several
        continuations share are read once."""
        pairs = [_fitting(context, continuation, self.max_length) for _, context, continuation in requests]
        order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]), pairs[i][0], -len(pairs[i][1])))
        found = [None] * len(pairs)
        with progress_bar(show=not disable_tqdm, transient=True) as bar:
            task = bar.add_task("scoring", total=len(pairs), unit="texts")
            for batch in self._batches([(i, *pairs[i]) for i in order]):
                rows, contexts, continuations = zip(*batch, strict=True)
                log_probs, is_greedy = score_endings(self.model, contexts, continuations)
                for row, *score in zip(rows, log_probs.tolist(), is_greedy.tolist(), strict=True):
                    found[row] = tuple(score)
                bar.update(task, advance=len(rows))
        return found

    def _batches(self, rows):
        """Lists of (row, context, continuation), so long that their logits fit into memory."""
        most = _LOGITS_AT_ONCE // self.model.config.vocab_size
        batch, longest = [], 0
        for row in rows:
            longest = max(longest, len(row[2]))
            if batch and (len(batch) == self._batch_size or longest * (len(batch) + 1) > most):
                yield batch
                batch, longest = [], len(row[2])
            batch.append(row)
        yield from [batch] if batch else []

    def generate_until(self, requests, disable_tqdm=False):
        """Continuations up to, and without, the first of some texts."""
        found = [None] * len(requests)
        asked = [(row, *request.args) for row, request in enumerate(requests)]
        with progress_bar(show=not disable_tqdm, transient=True) as bar:
            task = bar.add_task("writing", total=len(requests), unit="texts")
            for _, group in itertools.groupby(sorted(asked, key=lambda x: str(x[2])), key=lambda x: str(x[2])):
                ids = [(row, self.tok_encode(text), settings) for row, text, settings in group]
                ids.sort(key=lambda x: -len(x[1]))
                for first in range(0, len(ids), self._batch_size):
                    batch = ids[first : first + self._batch_size]
                    rows, prompts, settings = zip(*batch, strict=True)
                    for row, text in zip(rows, self._continue(prompts, settings[0]), strict=True):
                        found[row] = text
                    bar.update(task, advance=len(rows))
        return found

    def _continue(self, prompts, settings):
        settings = normalize_gen_kwargs(settings, _NEW_TOKENS)
        new_tokens = settings["max_gen_toks"]
        options = {"stop": settings["until"] or None}
        if settings["do_sample"]:
            options |= {name: settings[name] for name in ("temperature", "top_k", "top_p", "min_p") if name in settings}
        most = self.max_length - new_tokens
        if most < 1:
            raise ValueError(f"{new_tokens} new tokens do not fit the model's context of {self.max_length}.")
        return generate(self.model, self.tokenizer, [ids[-most:] for ids in prompts], new_tokens, **options)


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


def _fitting(context, continuation, most):
    """A pair of lists of ids, cut at the left so that all but the last token fit."""
    if len(continuation) > most:
        raise ValueError(f"A continuation of {len(continuation)} tokens does not fit the model's context of {most}.")
    left = most + 1 - len(continuation)
    return context[-left:], continuation


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
