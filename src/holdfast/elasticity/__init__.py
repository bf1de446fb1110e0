"""Floor 4: how loosely an alignment is held, in the units of the theory: bits a token, nats of KL, stiffness."""

from holdfast.elasticity.card import CARD_FILE, Card, read_card
from holdfast.elasticity.codec import Coded, decode_text, encode_text, predicted_bits
from holdfast.elasticity.coefficients import Stiffness, extrapolated_stiffness, measure_stiffness
from holdfast.elasticity.curves import CurveReading, read_curve
from holdfast.elasticity.measure import Elasticity, measure_elasticity
from holdfast.elasticity.probe import GradientReading, Probe, probe
from holdfast.elasticity.rebound import ReboundCurve, rebound_curve
from holdfast.elasticity.reference import Reference, packaged
from holdfast.elasticity.resistance import Resistance, measure_resistance
from holdfast.elasticity.springs import Coefficient
from holdfast.elasticity.texts import CodeLength, code_length
from holdfast.elasticity.updates import Plan

__all__ = [
    "CARD_FILE",
    "Card",
    "CodeLength",
    "Coded",
    "Coefficient",
    "CurveReading",
    "Elasticity",
    "GradientReading",
    "Plan",
    "Probe",
    "ReboundCurve",
    "Reference",
    "Resistance",
    "Stiffness",
    "code_length",
    "decode_text",
    "encode_text",
    "extrapolated_stiffness",
    "measure_elasticity",
    "measure_resistance",
    "measure_stiffness",
    "packaged",
    "predicted_bits",
    "probe",
    "read_card",
    "read_curve",
    "rebound_curve",
]
