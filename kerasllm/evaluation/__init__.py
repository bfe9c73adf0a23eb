"""Numbers about a model: how well it predicts text, and how close its translations come to people's.

`perplexity` scores text, `score_tokens` scores ids that are tokenized already; both return `LanguageModelScores`.
`translation_scores` gathers `bleu`, `chrf`, `ter` and `rouge` in `TranslationScores`.
"""

from kerasllm.evaluation.language_model import LanguageModelScores, perplexity, score_tokens
from kerasllm.evaluation.translation import Score, TranslationScores, bleu, chrf, rouge, ter, translation_scores

__all__ = [
    "LanguageModelScores",
    "Score",
    "TranslationScores",
    "bleu",
    "chrf",
    "perplexity",
    "rouge",
    "score_tokens",
    "ter",
    "translation_scores",
]
