"""What the theory predicts: decoder, gradient, growth, phase transition. Time is in steps of one sequence.

Every formula assumes long sequences, a decoder that learns much faster than attention (eta_Y >> eta_Z), and weakly
correlated classes (`Classes.weakly_correlated`); at the paper's own Syn-Small settings they do not hold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from presize.errors import ConfigError, check_range
from presize.theory.scan_snap.data import Classes, FloatArray


def _check(tokens: float, classes: float, eta_y: float, eta_z: float = 1.0) -> None:
    check_range("classes", classes, 2, 1e9)
    if tokens < classes:
        raise ConfigError(f"tokens is {tokens:g}; it must be at least the number of classes, {classes:g}")
    check_range("tokens", tokens, 2, 1e12)
    check_range("eta_y", eta_y, 0, 1e6, above=True)
    check_range("eta_z", eta_z, 0, 1e6, above=True)


def decoder_steps(steps: int, tokens: int, eta_y: float) -> FloatArray:
    """(steps + 1,) h*(s): h*(0) = 0, h*(s) = h*(s-1) + eta_Y / (M - 1 + exp(M h*(s-1))). s counts visits of a class."""
    _check(tokens, 2, eta_y)
    check_range("steps", steps, 0, 10_000_000)
    found = np.zeros(steps + 1)
    for step in range(steps):
        found[step + 1] = found[step] + eta_y / (tokens - 1 + np.exp(tokens * found[step]))
    return found


def decoder(times: NDArray[np.float64] | float, tokens: int, eta_y: float) -> FloatArray:
    """h(s) with exp(M h) + (M - 1) M h = M eta_Y s + 1: the same in continuous time. Newton's method in M h.

    Lemma 3: w_n(s) = (M - 1) h(s) zeta_n, zeta_n = M / (M - 1) (e_n - 1 / M), exactly if classes do not overlap.
    """
    _check(tokens, 2, eta_y)
    times = np.asarray(times, dtype=np.float64)
    if (times < 0).any():
        raise ConfigError(f"times has {float(times.min())}; it must be at least 0")
    goal = tokens * eta_y * times + 1.0
    # from the right the convex left side is approached without a step too far
    value = np.minimum(np.log(goal), (goal - 1.0) / (tokens - 1))
    for _ in range(100):
        grown = np.exp(value)
        step = (grown + (tokens - 1) * value - goal) / (grown + tokens - 1)
        value = value - step
        if np.all(np.abs(step) <= 1e-13 * (1.0 + value)):
            break
    return np.asarray(value / tokens)


def gradient_scale(times: NDArray[np.float64] | float, tokens: int, classes: int, eta_y: float) -> FloatArray:
    """gamma(t) = (M - 1)^2 h(t/K) / (M - 1 + exp(M h(t/K))), Theorem 1: rises with t, falls like ln t / t after t0."""
    _check(tokens, classes, eta_y)
    value = decoder(np.asarray(times) / classes, tokens, eta_y)
    return np.asarray((tokens - 1) ** 2 * value / (tokens - 1 + np.exp(tokens * value)))


def competition(overlap: FloatArray) -> FloatArray:
    """(K, K) beta_{nn'}: the off-diagonal part of E' = I - (I + E)^-1, Theorem 1, from E. See `plain_growth`."""
    count = len(overlap)
    inverse = np.eye(count) - np.linalg.inv(np.eye(count) + overlap)
    return np.asarray(inverse * (1.0 - np.eye(count)))


def pressure(classes: Classes, scores: FloatArray | None = None) -> FloatArray:
    """(K,) xi_n / gamma = sum_{n' != n} beta_{nn'} f_n^T f_{n'} (Lemma 4): what pushes attention to distinct tokens.

    Positive in the assumed regime.
    """
    overlap = classes.overlap(scores)
    return np.asarray((competition(overlap) * overlap).sum(axis=1))


def snapping_time(tokens: int, classes: int, eta_y: float) -> float:
    """t0 = 2 K ln M / eta_Y (Theorem 4), in steps of one sequence: from here on attention moves like ln ln t."""
    _check(tokens, classes, eta_y)
    return float(2.0 * classes * np.log(tokens) / eta_y)


def growth(
    times: NDArray[np.float64] | float, tokens: int, classes: int, eta_y: float, eta_z: float, pressure_at_start: float
) -> FloatArray:
    """B_n(t) = eta_Z int xi_n dt with the start's constant, so that B(0) = 0; Theorem 4: one common token, one query.

        B_n(t) = (1/4) ln( 1 + 2 (eta_Z / eta_Y) K (M - 1)^2 h^2(t / K) / C0 ),    1 / C0 = xi_n(0) / gamma

    The paper prints (1/4) ln(C0 + ...), which leaves out -(1/4) ln C0. pressure_at_start: 1 / C0, of `pressure`; for
    one weak common token of share f in every direction it is about K f^4.

    The common token moves by z = -B_n(t). A distinct token of class n moves at eta_Z f_nl^2 xi_n in the steps that
    bring class n, one of K, so on average chi_l0 lies between exp(2 f_nl0^2(0) B_n / K) and exp(2 B_n / K).

    It holds for a decoder whose classes do not move each other's w_n (`Settings.decoupled`), as Theorem 1 has it. Under
    gradient descent they do; `plain_growth` is what holds then.
    """
    _check(tokens, classes, eta_y, eta_z)
    value = decoder(np.asarray(times) / classes, tokens, eta_y)
    inner = 2.0 * eta_z / eta_y * classes * ((tokens - 1) * value) ** 2 * pressure_at_start
    return np.asarray(np.log1p(inner) / 4.0)


def plain_growth(
    times: NDArray[np.float64] | float, tokens: int, classes: int, eta_y: float, eta_z: float, overlap: float
) -> FloatArray:
    """B_n(t) under plain gradient descent on Y: ours, as Theorem 1 is not about it. The common token moves by -B_n(t).

    Descent leaves Y = sum_n f_n v_n^T with v_n = (M - 1) h zeta_n, so that

        Y (e_n - alpha_n) = gamma f_n - M h sum_{n' != n} alpha_n[n'] f_{n'},    beta_{nn'} = M h alpha_n[n'] / gamma

    Theorem 1 has w_n = Y^T f_n move by its own class alone. But w_n = v_n + sum_{n'} E_{nn'} v_{n'}, and the second
    part cancels E' = I - (I + E)^-1. With an overlap E_{nn'} = rho at the start, of one weak common token, which
    follows exp(2 z), and alpha_n[n'] = exp(rho M h) / (M - 1 + exp(M h)):

        B_n(t) = (1/2) ln( 1 + 2 (eta_Z / eta_Y) K (K - 1) (rho / M) J(M h(t / K)) ),
        J(x) = int_0^x u exp(rho u) du = ((rho x - 1) exp(rho x) + 1) / rho^2

    That is smaller than Theorem 4's by a factor of about M rho. It needs eta_Y >> eta_Z, since Y has been learned along
    the directions of earlier steps.
    """
    _check(tokens, classes, eta_y, eta_z)
    check_range("overlap", overlap, 0, 1, above=True)
    reach = tokens * decoder(np.asarray(times) / classes, tokens, eta_y)
    total = ((overlap * reach - 1.0) * np.exp(overlap * reach) + 1.0) / overlap**2
    return np.asarray(np.log1p(2.0 * eta_z / eta_y * classes * (classes - 1) * overlap / tokens * total) / 2.0)


def snapped(probabilities: FloatArray, chi: float) -> FloatArray:
    """Attention on the distinct tokens of a class once the dominant one has grown by ``chi``, from Z(0) = 0.

    c_l ~ P_l / sqrt(1 - (P_l / P_l0)^2 (1 - 1 / chi)): from the intermediate identity of Theorem 3's proof, by which
    1 - exp(-2 z_l) is in proportion to P_l^2. probabilities: (D,) of the distinct tokens.
    """
    check_range("chi", chi, 1, 1e300)
    ratio = probabilities / probabilities.max()
    found = probabilities / np.sqrt(1.0 - ratio**2 * (1.0 - 1.0 / chi))
    return np.asarray(found / found.sum())
