"""The mathematics of thresholds and calibration, each rule against an independent computation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from backends import numpy_ops
from passes.corrections import channel_mean, descend, least_squares, straight_through_gradient
from passes.patches import flat_weights, outputs, patches
from passes.rewiring import choice
from passes.threshold_rules import (
    Histogram,
    balanced_thresholds,
    least_squares_thresholds,
    quantised,
)

rng = np.random.default_rng
Array = np.ndarray


def activations(seed: int, rows: int = 3, n: int = 5000) -> Array:
    """Sparse, heavy-tailed, a different size in each row."""
    r = rng(seed)
    a = np.maximum(r.standard_normal((rows, n)) + r.standard_exponential((rows, n)) - 1, 0)
    return (a * np.arange(1, rows + 1)[:, None]).astype(np.float32)


def histogram(a: Array, parts: int = 1) -> Histogram:
    seen = Histogram(a.max(1))
    for part in np.array_split(a, parts, axis=1):
        seen.add(part)
    return seen


def squares(a: Array, theta: Array, t: int, gamma: float, offset: float) -> Array:
    return ((a - quantised(a, theta[:, None], t, gamma, offset)) ** 2).mean(1)


@pytest.mark.parametrize(("gamma", "offset"), [(1, 0.5), (1, 0.0), (5, 0.5)])
@pytest.mark.parametrize("t", [2, 4, 16])
def test_least_squares_thresholds_have_the_least_error_of_their_grid(t, gamma, offset):
    a = activations(0)
    found = squares(a, least_squares_thresholds(histogram(a), t, gamma, offset), t, gamma, offset)
    for share in np.geomspace(1, 0.05 / gamma, 100):
        other = squares(a, a.max(1) * share, t, gamma, offset)
        assert (found <= other * 1.01).all()  # bins are not infinitely narrow


def test_a_threshold_of_its_own_serves_each_channel_better():
    a, t = activations(1), 4
    seen = histogram(a)
    own = squares(a, least_squares_thresholds(seen, t), t, 1, 0.5).sum()
    one = np.repeat(least_squares_thresholds(seen.merged(), t), len(a))
    assert own < squares(a, one, t, 1, 0.5).sum()


def test_with_many_steps_only_clipping_is_left_so_the_threshold_is_the_maximum():
    a = activations(2)
    np.testing.assert_allclose(least_squares_thresholds(histogram(a), 4096), a.max(1))


def test_histograms_do_not_depend_on_order_or_batches():
    a = activations(3)
    mixed = a[:, rng(0).permutation(a.shape[1])]
    np.testing.assert_array_equal(histogram(a).counts, histogram(mixed, 7).counts)
    assert histogram(a).counts.sum() == (a > 0).sum()
    assert histogram(a).merged().counts.sum() == (a > 0).sum()


def test_balancing_is_the_iteration_of_its_paper_on_the_mean_of_all_data():
    a = activations(4)
    theta = np.zeros(len(a))
    for _ in range(20):
        theta += 2 * np.maximum(a - theta[:, None], 0).mean(1)
    np.testing.assert_allclose(balanced_thresholds(histogram(a), 20), theta, rtol=1e-3)


def test_balancing_only_grows_and_ends_at_the_maximum():
    a = activations(5)
    found = [balanced_thresholds(histogram(a), n) for n in (1, 10, 100, 20_000)]
    assert all((b > c).all() for c, b in pairwise(found))
    assert (found[-1] <= a.max(1)).all()
    assert (found[-1] > 0.9 * a.max(1)).all()


def test_quantised_is_what_a_neuron_sends_of_a_constant_current():
    for gamma, v in ((1.0, 0.5), (1.0, 0.0), (3.0, 0.5)):
        x, theta, t = np.linspace(0, 4, 97)[None], 0.75, 8
        potential, count = np.full_like(x, v * theta), np.zeros_like(x)
        for step in range(1, t + 1):
            settings = {"t": step, "gamma": gamma, "gamma_neg": 0.0, "delay": 0}
            _, potential, count = numpy_ops.if_step(
                x, potential, count, np.array([theta]), **settings
            )
        np.testing.assert_allclose(quantised(x, theta, t, gamma, v), theta * count / t)


def test_a_bias_shift_ends_where_an_initial_potential_of_half_a_threshold_does():
    x, theta, t = rng(0).uniform(0, 1, (1, 200)), np.ones(1), 16
    counts = []
    for v, shift in ((0.5, 0.0), (0.0, 0.5 / t)):
        potential, count = np.full_like(x, v), np.zeros_like(x)
        for step in range(1, t + 1):
            settings = {"t": step, "gamma": 1.0, "gamma_neg": 0.0, "delay": 0}
            _, potential, count = numpy_ops.if_step(x + shift, potential, count, theta, **settings)
        counts.append(count)
    np.testing.assert_array_equal(*counts)


def problem(seed: int) -> tuple[Array, Array, Array, Array]:
    r = rng(seed)
    x = r.standard_normal((400, 12))
    return x, r.standard_normal((400, 5)), r.standard_normal((5, 12)), r.standard_normal(5)


def test_free_least_squares_is_ordinary_least_squares():
    x, z, w, b = problem(0)
    found_w, found_b = least_squares(x, z, w, b, 1e-12)
    expected, *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], z, rcond=None)
    np.testing.assert_allclose(np.c_[found_w, found_b], expected.T, atol=1e-6)


def test_dear_least_squares_only_moves_the_bias_by_the_mean_error():
    x, z, w, b = problem(1)
    found_w, found_b = least_squares(x, z, w, b, 1e12)
    np.testing.assert_allclose(found_w, w, atol=1e-9)
    np.testing.assert_allclose(found_b, b + (z - x @ w.T - b).mean(0), atol=1e-9)


def test_least_squares_leaves_a_layer_without_error_alone():
    x, _, w, b = problem(2)
    found_w, found_b = least_squares(x, x @ w.T + b, w, b, 0.1)
    np.testing.assert_allclose(found_w, w, atol=1e-12)
    np.testing.assert_allclose(found_b, b, atol=1e-12)


def test_the_straight_through_gradient_is_that_of_the_clipped_line_where_nothing_is_floored():
    # On integers floor changes nothing, so loss and surrogate agree; the surrogate is quadratic
    # between its corners, and central differences are exact.
    r = rng(3)
    x = r.integers(0, 3, (50, 4)).astype(float)
    w, b, a = r.integers(-1, 3, (3, 4)).astype(float), np.full(3, 0.0), r.uniform(0, 4, (50, 3))
    theta, v, t, gamma = np.ones(3), np.full(3, 0.0), 1, 6.0
    loss, gradient = straight_through_gradient(x, a, w, b, theta, v, t, gamma)

    def surrogate(w: Array) -> float:
        f = np.clip(x @ w.T + b, 0, gamma)
        return float(((f - a) ** 2).sum(1).mean())

    assert loss == surrogate(w)
    q = x @ w.T
    assert ((q == 0) | (q == gamma)).any()
    inside = ~((q == 0) | (q == gamma)).any(0)
    for o, i in np.ndindex(*w.shape):
        step = np.zeros_like(w)
        step[o, i] = 1e-4
        slope = (surrogate(w + step) - surrogate(w - step)) / 2e-4
        # At a corner the surrogate has two slopes, and ours is the one of the open side.
        tolerance = 1e-6 if inside[o] else np.inf
        assert abs(slope - gradient[o, i]) < tolerance


def test_the_gradient_of_an_open_layer_in_fine_steps_is_that_of_least_squares():
    r = rng(4)
    x, w, b = r.uniform(0, 1, (60, 4)), r.uniform(0.1, 0.2, (3, 4)), np.full(3, 0.1)
    a, t = r.uniform(0, 1, (60, 3)), 1 << 24
    _, found = straight_through_gradient(x, a, w, b, np.ones(3), np.zeros(3), t, 1)
    np.testing.assert_allclose(found, 2 * (x @ w.T + b - a).T @ x / len(x), rtol=1e-4)


def test_descent_lowers_the_held_out_loss_or_leaves_the_weights():
    r = rng(5)
    x, w, b = r.uniform(0, 1, (800, 6)), r.standard_normal((4, 6)) / 6, np.zeros(4)
    a = np.maximum(x @ (w * 1.3).T, 0)
    fixed = (np.ones(4), np.full(4, 0.5), 8, 1.0)
    settings = {"iterations": 100, "rate": 0.05, "batch": 128}
    better = descend(x, a, w, b, *fixed, **settings, rng=rng(0))
    before, after = (
        straight_through_gradient(x[600:], a[600:], k, b, *fixed)[0] for k in (w, better)
    )
    assert after < 0.7 * before
    perfect = quantised(np.maximum(x @ w.T, 0), 1.0, 8, 1.0, 0.5)
    same = descend(x, perfect, w, b, *fixed, **settings, rng=rng(0))
    np.testing.assert_array_equal(same, w)


def test_patches_are_what_a_convolution_multiplies():
    import onnx_ir as ir

    r = rng(6)
    x, w = r.standard_normal((2, 3, 7, 6)), r.standard_normal((4, 3, 2, 3)).astype(np.float32)
    settings = {"pads": [1, 0, 0, 2], "strides": [2, 1], "dilations": [1, 2], "group": 1}
    weight = ir.Value(name="w", const_value=ir.tensor(w))
    node = ir.node("Conv", [ir.Value(name="x"), weight], settings)
    y = numpy_ops.conv(x, w.astype(float), **settings)
    rows = rng(0).permutation(y.size // 4)[:20]
    found = patches(node, x, rows) @ flat_weights(node).T
    np.testing.assert_allclose(found, outputs(y, rows), atol=1e-12)


def test_channel_means_and_choices_by_content():
    e = rng(7).standard_normal((5, 3, 2, 2))
    np.testing.assert_allclose(channel_mean(e), [e[:, c].mean() for c in range(3)])
    x = rng(8).standard_normal((40, 3)).astype(np.float32)
    mixed = rng(9).permutation(40)
    chosen = {tuple(row) for row in x[choice(x, 10)]}
    assert chosen == {tuple(row) for row in x[mixed][choice(x[mixed], 10)]}
    assert len(chosen) == 10
