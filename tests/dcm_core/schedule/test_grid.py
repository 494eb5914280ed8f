"""The solver grid against the published table, and its laws at every shift."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcm_core.schedule.curves import shift_sigma, unshift_sigma
from dcm_core.schedule.grid import NoiseGrid

# The 50 levels at shift 17, times 1000, as printed with the method.
PUBLISHED_GRID = """
 257.576 414.634 520.408 596.491 653.846 698.630 734.568 764.045 788.660 809.524 827.434 842.975
856.589 868.613 879.310 888.889 897.516 905.325 912.429 918.919 924.870 930.348 935.407 940.092
944.444 948.498 952.282 955.823 959.144 962.264 965.201 967.972 970.588 973.064 975.410 977.636
979.751 981.763 983.680 985.507 987.252 988.920 990.515 992.042 993.506 994.911 996.259 997.555
998.801 1000.000
"""


class TestGrid:
    def test_published_levels(self):
        levels = torch.tensor([float(value) for value in PUBLISHED_GRID.split()], dtype=torch.float64)
        grid = NoiseGrid(shift=17, points=50)
        assert torch.allclose(1000 * grid.sigmas, levels, rtol=0, atol=5.1e-4)
        assert grid.sigmas[-1] == 1
        assert 1000 * grid.sigma_min == pytest.approx(16.7323, abs=5e-5)

    def test_previous_is_the_next_lower_level_and_sigma_min_at_the_bottom(self):
        grid = NoiseGrid()
        assert grid.previous(0) == grid.sigma_min
        assert [grid.previous(i) for i in range(1, 50)] == [grid.sigma(i) for i in range(49)]

    @pytest.mark.parametrize("level", [NoiseGrid.sigma, NoiseGrid.previous])
    def test_a_batch_of_indices_gives_float32_sigmas(self, level):
        grid, index = NoiseGrid(), torch.tensor([0, 37, 49])
        sigmas = level(grid, index)
        assert sigmas.dtype == torch.float32
        assert sigmas.tolist() == pytest.approx([level(grid, int(i)) for i in index])

    @pytest.mark.parametrize("level", [NoiseGrid.sigma, NoiseGrid.previous])
    @pytest.mark.parametrize("index", [-1, 50, torch.tensor([3, -1]), torch.tensor([50]), torch.tensor([0.5])])
    def test_no_index_wraps_around(self, level, index):
        with pytest.raises(ValueError, match="grid ind"):
            level(NoiseGrid(), index)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("shift", value) for value in (0, -1.0, math.nan, math.inf, 0.001, 1e6, "17", True)),
            *(("points", value) for value in (1, 0, -50, 1000, 50.0, True)),
            ("prediction", "v"),
        ],
    )
    def test_impossible_grids_are_named(self, field, value):
        with pytest.raises(ValueError, match=field):
            NoiseGrid(**{field: value})

    @given(st.floats(0.01, 100), st.floats(0, 1))
    def test_unshift_inverts_shift(self, shift, u):
        assert unshift_sigma(shift_sigma(u, shift), shift) == pytest.approx(u, abs=1e-9)

    @given(st.floats(0.01, 100), st.integers(2, 999))
    def test_levels_rise_from_above_sigma_min_to_one(self, shift, points):
        grid = NoiseGrid(shift, points)
        levels = torch.cat([torch.tensor([grid.sigma_min]), grid.sigmas])
        assert (levels.diff() > 0).all()
        assert levels[-1] == 1
