"""Floor 4: how loosely an alignment is held, in the units of the theory: bits a token, nats of KL, stiffness."""

from holdfast.elasticity.coefficients import Stiffness, measure_stiffness
from holdfast.elasticity.measure import Elasticity, measure_elasticity
from holdfast.elasticity.probe import GradientReading, Probe, probe

__all__ = [
    "Elasticity",
    "GradientReading",
    "Probe",
    "Stiffness",
    "measure_elasticity",
    "measure_stiffness",
    "probe",
]
