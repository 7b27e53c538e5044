"""The number of seeds against simulated t-tests and statsmodels' and G*Power's published numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from cosphere.errors import SettingsError
from cosphere.studies.power import power_of, seeds_for


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_number_of_pairs_is_that_of_g_power(effect: float, seeds: int) -> None:
    """G*Power 3.1, matched pairs, two tails, alpha 0.05, power 0.8."""
    assert seeds_for(effect) == seeds


@pytest.mark.parametrize(("effect", "seeds", "two_sided"), [(0.7, 8, True), (1.2, 5, False), (0.35, 80, True)])
def test_the_power_is_the_share_of_simulated_tests_that_find_the_effect(
    effect: float, seeds: int, two_sided: bool
) -> None:
    drawn = np.random.default_rng(0).normal(effect, 1, (20_000, seeds))
    test = ttest_1samp(drawn, 0, axis=1, alternative="two-sided" if two_sided else "greater")
    share = ((test.pvalue < 0.05) & (test.statistic > 0)).mean()
    assert power_of(effect, seeds, two_sided=two_sided) == pytest.approx(share, abs=0.01)


def test_a_huge_effect_has_power_one_without_an_overflow() -> None:
    assert power_of(1e6, 1000) == 1.0
    assert power_of(60.0, 2) == pytest.approx(1.0, abs=1e-9)
    assert seeds_for(1e6) == 2


def test_no_effect_needs_no_number_and_more_power_needs_more_seeds() -> None:
    assert seeds_for(0.0) is None
    assert seeds_for(0.5, power=0.95) > seeds_for(0.5)  # type: ignore[operator]
    assert seeds_for(0.5, two_sided=False) < seeds_for(0.5)  # type: ignore[operator]
    assert seeds_for(0.5, alpha=0.01) > seeds_for(0.5)  # type: ignore[operator]


@pytest.mark.parametrize("wrong", [{"effect": -1.0}, {"effect": 1.0, "power": 1.0}, {"effect": 1.0, "alpha": 0.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="must be a number"):
        seeds_for(**wrong)
