"""Floor 2: second-order quantities: Fisher forms, Hessian and Gauss-Newton products, damped solves, onset.

Mathematics as functions: each formula of the specification once, on parameter trees.
"""

from holdfast.curvature import cg
from holdfast.curvature.cg import CGResult
from holdfast.curvature.differences import HessianProduct, hessian_product, hvp_by_differences
from holdfast.curvature.fisher import fisher_bilinear, fisher_pull, fisher_quadratic
from holdfast.curvature.onset import (
    PathCoefficients,
    kl_along,
    onset_coefficients,
    path_coefficients,
    path_derivatives,
)
from holdfast.curvature.products import ggn_operator, hvp, hvp_operator, in_float32

__all__ = [
    "CGResult",
    "HessianProduct",
    "PathCoefficients",
    "cg",
    "fisher_bilinear",
    "fisher_pull",
    "fisher_quadratic",
    "ggn_operator",
    "hessian_product",
    "hvp",
    "hvp_by_differences",
    "hvp_operator",
    "in_float32",
    "kl_along",
    "onset_coefficients",
    "path_coefficients",
    "path_derivatives",
]
