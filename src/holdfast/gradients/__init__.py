"""Floor 2: per-sample gradients and what is read off them: norms, inner products, means.

Everything here is exact for the samples given; ``per_sample`` is the reference the faster routes are held to.
"""

from holdfast.gradients.agreement import ProxyAgreement, rank_agreement
from holdfast.gradients.dots import dots_and_losses, per_sample_dots
from holdfast.gradients.fisher import Eigenpairs, SampledFisher, Solution
from holdfast.gradients.ghost import GhostEngine, SampleNorms
from holdfast.gradients.gram import Gram, gradient_gram
from holdfast.gradients.means import mean_gradient
from holdfast.gradients.norms import batch_gradient_norms, gradient_norms, pool_norms
from holdfast.gradients.one_pass import OnePass, one_pass
from holdfast.gradients.per_sample import per_sample_gradients, squared_norms
from holdfast.gradients.scores import Score, ScoreTable

__all__ = [
    "Eigenpairs",
    "GhostEngine",
    "Gram",
    "OnePass",
    "ProxyAgreement",
    "SampleNorms",
    "SampledFisher",
    "Score",
    "ScoreTable",
    "Solution",
    "batch_gradient_norms",
    "dots_and_losses",
    "gradient_gram",
    "gradient_norms",
    "mean_gradient",
    "one_pass",
    "per_sample_dots",
    "per_sample_gradients",
    "pool_norms",
    "rank_agreement",
    "squared_norms",
]
