"""Coefficients against closed forms: elasticity.md T8, T10, the published table, a linear spring."""

import math

import numpy as np
import pytest

from holdfast.elasticity import GradientReading, Plan, ReboundCurve, Reference, packaged, read_card, springs
from holdfast.elasticity.coefficients import extrapolated_stiffness
from holdfast.elasticity.rebound import Point
from holdfast.elasticity.updates import Trace
from tests.elasticity import closed_forms as theory

N_PLUS = (1000, 2000, 5000, 10000)
PUBLISHED = {  # Table 3: KL at the start, unsafe samples to KL < 0.01, kappa in 1e-3, beta
    "Llama2-7B": ((0.21, 0.22, 0.26, 0.27), (961, 844, 801, 729), (3.17, 3.66, 4.07, 4.52), 0.149),
    "Gemma-2B": ((0.18, 0.21, 0.24, 0.25), (923, 853, 709, 598), (3.13, 3.57, 4.48, 5.38), 0.237),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_table_has_a_rebound_that_no_linear_spring_explains(model):
    starts, samples, kappas, beta = PUBLISHED[model]
    found = [springs.relaxation_rate([0, n], [kl, 0.01], 0.01) for kl, n in zip(starts, samples, strict=True)]
    np.testing.assert_allclose(1e3 * np.array(found), kappas, atol=0.006)
    assert springs.rebound_index(N_PLUS, found) == pytest.approx(beta, abs=6e-4)
    null = springs.spring_updates(starts[-1], 0.01, 1.0) / springs.spring_updates(starts[0], 0.01, 1.0)
    assert null == pytest.approx({"Llama2-7B": 1.08, "Gemma-2B": 1.11}[model], abs=0.006)
    assert samples[-1] / samples[0] == pytest.approx({"Llama2-7B": 0.76, "Gemma-2B": 0.65}[model], abs=0.005)


def test_a_linear_spring_reads_as_one():
    h, epsilon = 0.002, 0.01
    assert springs.spring_updates(0.25, epsilon, 2 * h) == pytest.approx(804.718956, abs=1e-6)
    n = np.arange(0, 1500, 10.0)
    curves = [x0**2 * 0.25 * np.exp(-2 * h * n) for x0 in (1.0, 1.5)]
    assert springs.first_crossing(n, curves[0], epsilon) == pytest.approx(804.72, abs=0.1)
    rates = [springs.relaxation_rate(n, kl, epsilon) for kl in curves]
    np.testing.assert_allclose(rates, 2 * h, rtol=1e-9)
    assert springs.rebound_index([1000, 2000], rates) == pytest.approx(0, abs=1e-9)
    assert springs.crossing_curves(n, *curves) == math.inf
    forward = 0.25 * (1 - np.exp(-h * n * 20)) ** 2  # its end is its resting place
    back = 0.25 * np.exp(-2 * h * 20 * n)
    found = springs.hysteresis(n, forward, springs.first_crossing(n, back, epsilon))
    assert found == pytest.approx(springs.spring_hysteresis(0.25, epsilon), rel=0.02)


def test_noisy_spring_has_beta_zero_within_its_interval():
    rng, n = np.random.default_rng(0), np.array([0, 8, 16, 32, 64, 128.0])
    curves = [x * np.exp(-0.02 * n)[None, :, None] * rng.gamma(20, 1 / 20, (3, 6, 40)) for x in (0.2, 0.3, 0.5)]

    def beta(*means_T):
        return springs.rebound_index([1, 2, 4], [springs.relaxation_rate(n, kl, 0.02) for kl in means_T])

    found = springs.over_seeds_and_prompts(beta, *curves, draws=120)
    assert not found.excludes(0.0) and found.high - found.low < 0.2 and found.n == 40
    steeper = [c * np.exp(-0.01 * k * n)[None, :, None] for k, c in enumerate(curves)]
    assert springs.over_seeds_and_prompts(beta, *steeper, draws=120).low > 0
    assert springs.Coefficient("beta", "", found, 0.0, springs.OPPOSED).explained
    one = springs.over_seeds_and_prompts(beta, *(c[:1, :, :1] for c in curves))
    assert math.isnan(one.low) and springs.Coefficient("beta", "", one, 0.0, springs.OPPOSED).explained is None
    with pytest.raises(ValueError, match="same seeds and prompts"):
        springs.over_seeds_and_prompts(beta, curves[0], curves[1][:2])


def test_crossings_are_linear_between_probes_and_censored_where_there_are_none():
    assert springs.first_crossing([0, 10, 20], [1.0, 0.6, 0.2], 0.5) == pytest.approx(12.5)
    assert springs.first_crossing([0, 10], [0.4, 0.3], 0.5) == 0
    assert springs.first_crossing([0, 10], [1.0, 0.9], 0.5) == math.inf
    never = springs.over_seeds_and_prompts(
        lambda s: springs.first_crossing([0, 4], s, 0.5), np.ones((1, 2, 9)), draws=20
    )
    assert never.value == never.low == never.high == math.inf
    assert springs.crossing_curves([0, 10], [0.5, 0.4], [0.8, 0.1]) == pytest.approx(5.0)
    assert math.isnan(springs.relaxation_rate([0, 1], [0.005, 0.001], 0.01))
    assert springs.score_rate([0, 2, 4], [1.0, 0.8, 0.1], 0.2) == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("cosine", "ratio", "said"),
    [(-0.97, 12.0, springs.OPPOSED), (-0.98, 0.014, springs.SATURATED), (-0.17, 0.3, springs.SATURATED),
     (0.1, 1e4, springs.BASE), (-0.4, 1.0, springs.MIXED), (math.nan, math.nan, springs.UNREAD)],
)  # fmt: skip
def test_regimes(cosine, ratio, said):
    assert springs.regime(cosine, ratio) == said


def test_resistance_confounds_and_what_the_index_makes_of_them():
    """T8: source entropy, learning, and the mirror pair that must read exactly zero."""
    p_k, p_l = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    ce = theory.cross_entropy_bits
    raw = ce(p_l, p_k), ce(p_k, p_l)
    excess = raw[0] - ce(p_l, p_l), raw[1] - ce(p_k, p_k)
    np.testing.assert_allclose([*raw, *excess], [1.0, 1.736966, 0.531004, 0.736966], atol=1e-6)
    assert springs.resistance_index(*excess) == pytest.approx(-0.3249, abs=1e-4)

    def learned(counts, start):
        return theory.prequential_bits_closed(counts, [100 * p for p in start]) / 1000

    raw = learned([900, 100], p_k), learned([500, 500], p_l)
    excess = raw[0] - ce(p_l, p_l), raw[1] - ce(p_k, p_k)
    np.testing.assert_allclose([*raw, *excess], [0.533289, 1.051374, 0.064293, 0.051374], atol=1e-6)
    assert springs.resistance_index(*excess) == pytest.approx(0.2234, abs=1e-4)
    mirror = [learned(c, s) - ce(p_l, p_l) for c, s in (([900, 100], [0.1, 0.9]), ([100, 900], [0.9, 0.1]))]
    assert mirror[0] + ce(p_l, p_l) == pytest.approx(0.685471, abs=1e-6)
    assert springs.resistance_index(*mirror) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(springs.resistance_index(0.0, 0.0))


def test_stiffness_is_read_at_zero_updates():
    """Curvature bends the ratio of finite steps (1.7); the intercept is the law's k."""
    rng = np.random.default_rng(0)
    updates, k = (0, 1, 2, 4), 10.0
    tokens = np.full(120, 30)
    noise_UN = rng.normal(0, 0.002, (4, 120))
    pretrain = [60 - 0.03 * u + n for u, n in zip(updates, noise_UN, strict=True)]
    alignment = [90 + 0.03 * u * (k - 0.8 * u) + 10 * n for u, n in zip(updates, noise_UN[::-1], strict=True)]
    found = extrapolated_stiffness(updates, (pretrain, tokens), (alignment, tokens))
    assert found.value == pytest.approx(k, rel=0.03) and found.low < k < found.high < 12
    still = extrapolated_stiffness(updates, ([60 + n - n.mean() for n in noise_UN], tokens), (alignment, tokens))
    assert still.method == "unbounded" and still.low == -math.inf
    with pytest.raises(ValueError, match="give 0"):
        extrapolated_stiffness((1, 2), (pretrain[:2], tokens), (alignment[:2], tokens))


def spring_curve(seed, kappa=0.05, half=20.0, n=30):
    """A rebound that is a linear spring; its score comes down to the base's 0.1, with noise between prompts."""
    rng, updates = np.random.default_rng(seed), (0, 1, 2, 4, 8, 16, 32, 64)
    points = []
    for u in updates:
        kl = 2 * math.exp(-kappa * u) * rng.gamma(50, 1 / 50, n)
        score = rng.random(n) < 0.1 + 0.9 * math.exp(-math.log(9 / 4) * u / half)
        bits = {"pretrain": (60 - 0.6 * u,) * n, "alignment": tuple(60 + 1.8 * u + rng.normal(0, 0.01, n))}
        points.append(Point(u, 0, 0, tuple(map(float, score)), tuple(kl), tuple(kl), bits))
    tokens = {"pretrain": (30,) * n, "alignment": (30,) * n}
    return ReboundCurve("m", "harmless rows", Plan(64), seed, tuple(points), tokens, (0.1,) * n, Trace((), ()))


def test_the_card_says_first_what_it_takes_and_finds_a_linear_spring_to_be_one():
    card = read_card(
        [spring_curve(seed) for seed in range(3)], GradientReading(-0.9, 2.0, math.nan), nominal_k=3.0, draws=80
    )
    said = {c.name.split(" of ")[0]: c for c in card.coefficients}
    stiffness, rate, back, half, speed = card.coefficients
    assert all(c.regime == springs.OPPOSED for c in card.coefficients) and len(said) == 5
    assert stiffness.value.value == pytest.approx(3.0, rel=0.01) and stiffness.explained
    assert rate.value.value == pytest.approx(0.05, rel=0.05) and back.value.value == pytest.approx(60, rel=0.1)
    assert half.value.low < 20 < half.value.high and speed.value.n == 30
    number = math.ceil(half.value.value)
    assert card.sentence.startswith(
        f"{number} updates on harmless rows take half of the refusals (95 % interval: "
    )
    assert card.shape is not None and card.shape.base_level == pytest.approx(0.1)


def test_the_sentence_ends_with_the_reference_models():
    others = Reference("a family", "rows", "AdamW", 1e-3, 8, 16, (3.0, 4.2, None), "a study")
    card = read_card([spring_curve(0)], reference=others, draws=20)
    assert card.sentence.endswith(
        "; the median of the 3 reference models (a family, rows, 8 rows an update at 0.001): 5."
    )
    shipped = packaged()
    assert shipped is None or len(shipped.updates_to_half) >= 16


def test_a_card_of_what_does_not_move():
    kept = read_card([spring_curve(0, half=1e9)], draws=20)
    assert kept.sentence == "After 64 updates on harmless rows, 100 % of the refusals are left."
    half = kept.coefficients[-2]
    assert half.said() == "not reached" and math.isnan(half.null)
    quiet = read_card([spring_curve(0)], noise_floor_bits=1.0, draws=20).coefficients[0]
    assert quiet.said() == "unbounded: below three times the noise floor"
    assert quiet.value.method == "below three times the noise floor" and quiet.value.low == -math.inf
    with pytest.raises(ValueError, match="probed at the same updates"):
        read_card([])
