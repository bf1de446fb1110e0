"""Floor 2: per-sample gradients and what is read off them: norms, inner products, means.

Everything here is exact for the samples given; ``per_sample`` is the reference the faster routes are held to.
"""

from holdfast.gradients.dots import per_sample_dots
from holdfast.gradients.gram import Gram, gradient_gram
from holdfast.gradients.means import mean_gradient
from holdfast.gradients.norms import gradient_norms
from holdfast.gradients.per_sample import batch_gradient_norms, per_sample_gradients, squared_norms
from holdfast.gradients.scores import Score, ScoreTable

__all__ = [
    "Gram",
    "Score",
    "ScoreTable",
    "batch_gradient_norms",
    "gradient_gram",
    "gradient_norms",
    "mean_gradient",
    "per_sample_dots",
    "per_sample_gradients",
    "squared_norms",
]
