"""Numbers about a model: how well it predicts text.

`perplexity` scores text, `score_tokens` scores ids that are tokenized already; both return `LanguageModelScores`.
"""

from kerasllm.evaluation.language_model import LanguageModelScores, perplexity, score_tokens

__all__ = ["LanguageModelScores", "perplexity", "score_tokens"]
