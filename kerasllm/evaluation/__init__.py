"""Numbers about a model: how well it predicts text, and how close its translations come to people's.

`perplexity` scores text, `score_tokens` scores ids that are tokenized already; both return `LanguageModelScores`.
`pseudo_perplexity` and `masked_accuracy` score masked models and return `MaskedLanguageModelScores`.
`classification_scores` scores classifiers of texts and returns `ClassificationScores`.
`retrieval_scores` scores embedders and returns `RetrievalScores`.
`translation_scores` gathers `bleu`, `chrf`, `ter` and `rouge` in `TranslationScores`.
`caption_scores` gathers `exact_match`, `bleu` and `cider` of what is said of images, `vqa_accuracy` scores answers,
and `matching_scores` what vectors of images and texts find.
`judge_answers` compares answers of models by a judge, `bradley_terry` makes strengths of wins and losses.
`bias` is a room of its own: whether a model prefers stereotypes; and so is `tasks`: what it can do.
"""

import kerasllm.evaluation.bias as bias
import kerasllm.evaluation.tasks as tasks
from kerasllm.evaluation.captions import CaptionScores, caption_scores, cider, exact_match, vqa_accuracy
from kerasllm.evaluation.classification import ClassificationScores, classification_scores
from kerasllm.evaluation.language_model import LanguageModelScores, perplexity, score_tokens
from kerasllm.evaluation.masked_language_model import MaskedLanguageModelScores, masked_accuracy, pseudo_perplexity
from kerasllm.evaluation.matching import MatchingScores, matching_scores
from kerasllm.evaluation.pairwise import PairwiseScores, bradley_terry, judge_answers
from kerasllm.evaluation.retrieval import RetrievalScores, retrieval_scores
from kerasllm.evaluation.tasks import TaskScores, task_scores
from kerasllm.evaluation.translation import Score, TranslationScores, bleu, chrf, rouge, ter, translation_scores

__all__ = [
    "CaptionScores",
    "ClassificationScores",
    "LanguageModelScores",
    "MaskedLanguageModelScores",
    "MatchingScores",
    "PairwiseScores",
    "RetrievalScores",
    "Score",
    "TaskScores",
    "TranslationScores",
    "bias",
    "bleu",
    "bradley_terry",
    "caption_scores",
    "chrf",
    "cider",
    "classification_scores",
    "exact_match",
    "judge_answers",
    "masked_accuracy",
    "matching_scores",
    "perplexity",
    "pseudo_perplexity",
    "retrieval_scores",
    "rouge",
    "score_tokens",
    "task_scores",
    "tasks",
    "ter",
    "translation_scores",
    "vqa_accuracy",
]
