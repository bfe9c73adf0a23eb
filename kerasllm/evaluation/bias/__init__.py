"""Whether a model prefers stereotypes: published tests, and templates of one's own.

`crows_pairs`, `stereoset`, `wino_bias` and `bbq` read the files of these tests, `templates` groups and sentences that
you write. Each gives `BiasScores`: figures by category with intervals, as a table, JSON and a plot, and what the test
cannot show. `BiasComparison` sets two models side by side.
"""

from kerasllm.evaluation.bias.own_templates import templates
from kerasllm.evaluation.bias.question_answers import bbq
from kerasllm.evaluation.bias.scores import BiasComparison, BiasScores
from kerasllm.evaluation.bias.sentence_pairs import crows_pairs, wino_bias
from kerasllm.evaluation.bias.stereo_set import stereoset
from kerasllm.statistics import Estimate

__all__ = ["BiasComparison", "BiasScores", "Estimate", "bbq", "crows_pairs", "stereoset", "templates", "wino_bias"]
