"""Every formula against simulation in the regime that it assumes, and where it stops being true."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presize.errors import ConfigError
from presize.theory.scan_snap import formulas
from presize.theory.scan_snap.data import Classes, make_classes, official
from presize.theory.scan_snap.dynamics import Settings, State, descend
from presize.theory.scan_snap.experiments import syn_small, trace

# the regime of the assumptions: one query, one common token, weakly correlated classes, many tokens
K, M = 5, 10_000
WEAK = make_classes(K, 1, common=1, common_mass=0.068, tokens=M)


def scores_at(classes: Classes, settings: Settings, steps: list[int]) -> dict[int, np.ndarray]:
    """(Q, C) after each of ``steps``."""
    found = {}
    for step, state, _ in descend(classes, settings, State.zero(classes), max(steps)):
        if step in steps:
            found[step] = state.scores[0].copy()
    return found


def test_the_assumptions_hold_for_the_weak_classes_and_not_for_the_official_ones() -> None:
    assert WEAK.weakly_correlated()
    assert not official(2, 1).weakly_correlated()
    assert not official(1, 10).weakly_correlated()


@given(st.integers(10, 100_000), st.floats(0.01, 5), st.floats(0, 1e5))
def test_the_continuous_decoder_solves_its_equation(tokens: int, eta: float, time: float) -> None:
    value = tokens * float(formulas.decoder(time, tokens, eta))
    assert np.exp(value) + (tokens - 1) * value == pytest.approx(tokens * eta * time + 1, rel=1e-9)


def test_the_continuous_decoder_follows_the_discrete_one() -> None:
    discrete = formulas.decoder_steps(2000, 1000, 0.5)
    assert formulas.decoder(np.arange(2001.0), 1000, 0.5)[50:] == pytest.approx(discrete[50:], rel=0.03)


def test_the_decoder_is_the_simulated_one_where_classes_do_not_overlap() -> None:
    """Lemma 3: w_n(s) = (M - 1) h*(s) zeta_n, with no common token, by single steps of one class."""
    classes = make_classes(4, 1, common=0, common_mass=0.0, tokens=300)
    eta = 0.7
    state = State.zero(classes)
    settings = Settings(eta_y=(4 * eta,), eta_z=(1e-9,))  # each step moves each class by a quarter of the rate
    for step, now, _ in descend(classes, settings, state, 400):
        if step in (10, 100, 400):
            weights = classes.directions(now.scores[0]) @ now.decoder[0]  # W = F^T Y, (K, J)
            height = formulas.decoder_steps(step, 300, eta)[-1]
            assert np.diag(weights[:, :4]) == pytest.approx(299 * height * 300 / 299 * (1 - 1 / 300), rel=1e-9)
            assert weights[0, 1] == pytest.approx(-height, rel=1e-9)
            assert weights[0, 4] == pytest.approx(-height, rel=1e-9)


def test_the_gradients_scale_rises_up_to_the_snapping_time_and_falls_after_it() -> None:
    end = formulas.snapping_time(1000, 10, 0.5)
    assert end == pytest.approx(2 * 10 * np.log(1000) / 0.5)
    times = np.linspace(1, 5 * end, 4000)
    scale = formulas.gradient_scale(times, 1000, 10, 0.5)
    assert 0.3 * end < times[scale.argmax()] < end
    early = times < 0.2 * end
    assert scale[early] == pytest.approx(0.5 * times[early] / 10, rel=0.25)  # O(eta_Y t / K)
    late = times > 2 * end
    visits = 0.5 * times[late] / 10  # eta_Y t / K
    assert scale[late] == pytest.approx(np.log(1000 * visits) / visits, rel=0.45)  # O(ln t / t)
    assert np.all(np.diff(scale[late]) < 0)


def test_theorem_4_holds_for_a_decoder_whose_classes_are_decoupled() -> None:
    """The common token's score is -B_n(t), the dominant token's f^2 B_n / K; scanning and snapping, both."""
    eta_y, eta_z = 1.0, 1e-3
    end = formulas.snapping_time(M, K, eta_y)
    times = [int(end / 3), int(end / 2), int(end), 1000]
    found = scores_at(WEAK, Settings(eta_y=(eta_y,), eta_z=(eta_z,), decoupled=True), times)
    pressure = float(formulas.pressure(WEAK)[0])
    start = WEAK.directions(np.zeros((1, WEAK.probabilities.shape[1])))[0]
    assert pressure == pytest.approx((K - 1) * start[0] ** 4, rel=0.15)
    for time, scores in found.items():
        growth = float(formulas.growth(time, M, K, eta_y, eta_z, pressure))
        assert scores[0, 0] == pytest.approx(-growth, rel=0.08)
        assert scores[0, WEAK.dominant[0]] == pytest.approx(start[WEAK.dominant[0]] ** 2 * growth / K, rel=0.06)


def test_theorem_3_bounds_the_growth_of_the_dominant_token() -> None:
    settings = Settings(eta_y=(1.0,), eta_z=(0.01,), decoupled=True)
    pressure = float(formulas.pressure(WEAK)[0])
    squared = float(WEAK.directions(np.zeros((1, WEAK.probabilities.shape[1])))[0, WEAK.dominant[0]] ** 2)
    for time, scores in scores_at(WEAK, settings, [50, 92]).items():
        growth = float(formulas.growth(time, M, K, 1.0, 0.01, pressure)) / K
        chi = float(np.exp(2 * scores[0, WEAK.dominant[0]]))
        assert np.exp(2 * squared * growth * 0.94) <= chi <= np.exp(2 * growth)


def test_under_plain_gradients_classes_compete_by_what_is_predicted_not_by_their_overlap() -> None:
    """Theorem 1's beta, from the gradient itself: Y (e_n - alpha_n) as a combination of all f_n."""
    state = State.zero(WEAK)
    for _ in descend(WEAK, Settings(eta_y=(1.0,), eta_z=(1e-9,)), state, 60):
        pass
    full = np.concatenate([state.decoder[0, :, :K], np.repeat(state.decoder[0, :, K:], M - K, axis=1)], axis=1)
    directions = WEAK.directions(state.scores[0])
    logits = directions[0] @ full
    alpha = np.exp(logits - logits.max())
    alpha /= alpha.sum()
    back = full @ (np.eye(1, M)[0] - alpha)
    parts, *_ = np.linalg.lstsq(directions.T, back, rcond=None)
    assert parts @ directions == pytest.approx(back, abs=1e-9)
    beta = -parts[1:] / parts[0]
    height = float(formulas.decoder(60 / K, M, 1.0))
    assert beta == pytest.approx(M * height * alpha[1:K] / parts[0], rel=0.2)
    assert (beta < 0.01 * formulas.competition(WEAK.overlap())[0, 1:]).all()


@pytest.mark.parametrize(("tokens", "mass"), [(M, 0.068), (M, 0.04), (100_000, 0.068)])
def test_growth_under_plain_gradients(tokens: int, mass: float) -> None:
    """Theorem 4's is too large by about M rho, at any rates; the corrected formula is right within a tenth."""
    classes = make_classes(K, 1, common=1, common_mass=mass, tokens=tokens)
    overlap = float(classes.overlap()[0, 1])
    end = formulas.snapping_time(tokens, K, 1.0)
    times = [int(end / 3), int(end / 2), int(end), int(4 * end)]
    for time, scores in scores_at(classes, Settings(eta_y=(1.0,), eta_z=(1e-3,)), times).items():
        growth = float(formulas.plain_growth(time, tokens, K, 1.0, 1e-3, overlap))
        assert scores[0, 0] == pytest.approx(-growth, rel=0.1)
        theorem = float(formulas.growth(time, tokens, K, 1.0, 1e-3, float(formulas.pressure(classes)[0])))
        assert -scores[0, 0] / theorem < 3 / (tokens * overlap)


def test_growth_under_plain_gradients_needs_a_decoder_that_is_much_faster() -> None:
    found = scores_at(WEAK, Settings(eta_y=(0.2,), eta_z=(0.2,)), [460])[460]
    growth = float(formulas.plain_growth(460, M, K, 0.2, 0.2, float(WEAK.overlap()[0, 1])))
    assert -found[0, 0] < 0.5 * growth


def test_theorem_3s_pattern_holds_in_the_regime_and_fails_at_the_official_settings() -> None:
    """1 - exp(-2 z_l) is in proportion to P(l|n)^2."""

    def spread(classes: Classes, settings: Settings, steps: int) -> float:
        scores = scores_at(classes, settings, [steps])[steps]
        own = classes.distinct[0]
        ratio = (1 - np.exp(-2 * scores[classes.query[0], own])) / classes.probabilities[0, own] ** 2
        return float(ratio.max() / ratio.min())

    assert spread(WEAK, Settings(eta_y=(1.0,), eta_z=(1e-4,)), 500) == pytest.approx(1.0, abs=0.01)
    assert spread(WEAK, Settings(eta_y=(1.0,), eta_z=(1e-4,), decoupled=True), 500) == pytest.approx(1.0, abs=0.01)
    small = official(2, 1)
    assert abs(np.log(spread(small, Settings(eta_y=(1.0,), eta_z=(1.0,)), 100))) > np.log(2)


def test_the_pattern_after_snapping() -> None:
    """Frequency bias: attention on a class's distinct tokens, predicted from the growth of one of them."""
    classes = make_classes(K, 1, common=1, common_mass=0.068, tokens=M)
    settings = Settings(eta_y=(1.0,), eta_z=(0.05,), decoupled=True)
    scores = scores_at(classes, settings, [2000])[2000]
    own = classes.distinct[0]
    attention = classes.attention(scores)[0, own]
    chi = float(np.exp(2 * scores[0, classes.dominant[0]]))
    predicted = formulas.snapped(classes.probabilities[0, own], chi)
    assert attention / attention.sum() == pytest.approx(predicted, rel=2e-3)
    assert formulas.snapped(np.array([1.0, 2.0]), 1.0) == pytest.approx([1 / 3, 2 / 3])


def test_frequency_and_discriminative_bias() -> None:
    """Distinct tokens grow, the frequent ones faster; common tokens shrink. In the regime, and at Syn-Small."""
    weak = scores_at(WEAK, Settings(eta_y=(1.0,), eta_z=(0.01,)), [300])[300]
    assert (weak[0, WEAK.owners > 1] < 0).all()
    for number in range(K):
        assert (np.diff(weak[0, WEAK.distinct[number]]) > 0).all()  # weights rise from 0.1 to 1
        assert (weak[0, WEAK.distinct[number]] > 0).all()
    small = syn_small()
    first, last = small.attention[0], small.attention[-1]
    assert (last < first)[:, small.classes.owners > 1].all()
    assert all(last[n, small.classes.dominant[n]] > 2 * first[n, small.classes.dominant[n]] for n in range(2))


SLOWING = [(WEAK, 0.5, 0.005), (WEAK, 1.0, 0.01), (official(1, 10), 1.0, 0.5), (official(1, 10), 2.0, 0.5)]


@pytest.mark.parametrize(("classes", "eta_y", "eta_z"), SLOWING)
def test_attention_slows_down_at_the_snapping_time(classes: Classes, eta_y: float, eta_z: float) -> None:
    """Of all growth of ln chi up to 10 t0 half and more is over by t0, and the fastest lies before it."""
    end = round(formulas.snapping_time(classes.tokens, classes.count, eta_y))
    found = trace(classes, Settings(eta_y=(eta_y,), eta_z=(eta_z,)), State.zero(classes), 10 * end)
    grown = np.log(found.growth.mean(axis=1))
    rate = np.diff(grown)
    assert grown[end // 5] < 0.1 * grown[10 * end]
    assert grown[end] > 0.5 * grown[10 * end]
    assert rate.argmax() < end
    assert rate[2 * end :].max() < 0.2 * rate.max()


def test_growth_at_the_checked_setting() -> None:
    """K = 10, M = 121, eta_Y = 2, eta_Z = 0.5, t0 = 48: an independent program's values of chi."""
    found = trace(official(1, 10), Settings(eta_y=(2.0,), eta_z=(0.5,)), State.zero(official(1, 10)), 5000)
    chi = found.growth.mean(axis=1)
    assert formulas.snapping_time(121, 10, 2.0) == pytest.approx(48, abs=0.1)
    assert chi[[10, 20, 40, 80, 320, 5000]] == pytest.approx([1.01, 1.07, 1.29, 1.46, 1.56, 1.62], abs=0.012)


def test_growth_at_the_snapping_time_depends_on_the_ratio_of_rates_alone() -> None:
    for ratio in (1.0, 4.0):
        at_end = [
            float(formulas.growth(formulas.snapping_time(M, K, eta), M, K, eta, eta / ratio, 0.01))
            for eta in (0.25, 1.0, 4.0)
        ]
        assert at_end == pytest.approx([at_end[0]] * 3, rel=1e-9)


def test_growth_starts_at_zero_and_is_monotone() -> None:
    values = formulas.growth(np.linspace(0, 1000, 200), M, K, 1.0, 0.1, 0.01)
    assert values[0] == 0
    assert (np.diff(values) > 0).all()


def test_no_overlap_no_competition() -> None:
    assert formulas.competition(np.zeros((4, 4))) == pytest.approx(np.zeros((4, 4)))
    assert (formulas.pressure(make_classes(4, 1, common=0, common_mass=0)) == 0).all()
    rho = 0.05
    overlap = rho * (np.ones((6, 6)) - np.eye(6))
    exact = rho / ((1 - rho) * (1 + 5 * rho))  # Sherman and Morrison
    assert formulas.competition(overlap) == pytest.approx(exact * (np.ones((6, 6)) - np.eye(6)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: formulas.snapping_time(5, 10, 1.0), "tokens is 5; it must be at least the number of classes, 10"),
        (lambda: formulas.snapping_time(50, 1, 1.0), r"classes is 1; it must be in \[2, "),
        (lambda: formulas.snapping_time(50, 10, 0.0), r"eta_y is 0.0; it must be in \(0, "),
        (lambda: formulas.growth(1.0, 50, 10, 1.0, 0.0, 0.1), r"eta_z is 0.0; it must be in \(0, "),
        (lambda: formulas.plain_growth(1.0, 50, 10, 1.0, 1.0, 0.0), r"overlap is 0.0; it must be in \(0, "),
        (lambda: formulas.decoder(-1.0, 50, 1.0), "times has -1.0; it must be at least 0"),
        (lambda: formulas.decoder_steps(-1, 50, 1.0), "steps is -1"),
        (lambda: formulas.snapped(np.ones(2), 0.5), r"chi is 0.5; it must be in \[1, "),
    ],
)
def test_bad_arguments_are_one_sentence(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call()
