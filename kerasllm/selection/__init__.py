"""Which model to train, and which to take: small runs that tell of larger ones, and candidates on one's own text.

`scale` trains small models and says with the law of their losses what a budget is best spent on: see
`kerasllm.planning.ScalingStudy`. `choose` measures models that there are already, the worse ones on little.
"""

from kerasllm.selection.choosing import Candidate, Selection, choose, selection_figure
from kerasllm.selection.scaling import scale

__all__ = ["Candidate", "Selection", "choose", "scale", "selection_figure"]
