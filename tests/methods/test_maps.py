import pytest

from onelook.errors import SettingsError
from onelook.methods.maps import convolution, map_shape


@pytest.mark.parametrize(
    ("feature_size", "channels", "expected"), [(256, 64, (64, 2)), (256, 0, (256, 1)), (7, 7, (7, 1)), (27, 3, (3, 3))]
)
def test_the_cells_are_what_the_channels_leave_of_the_features(
    feature_size: int, channels: int, expected: tuple[int, int]
) -> None:
    assert map_shape(feature_size, channels) == expected


@pytest.mark.parametrize(("feature_size", "channels"), [(256, 128), (256, 60), (8, 16), (8, -2), (0, 0)])
def test_features_that_are_no_square_maps_are_refused(feature_size: int, channels: int) -> None:
    with pytest.raises(SettingsError, match=f"feature_size={feature_size}"):
        map_shape(feature_size, channels)


def test_a_single_cell_has_no_neighbours_to_weigh() -> None:
    assert convolution(4, 3, side=1).weight.shape == (3, 4, 1, 1)
    assert convolution(4, 3, side=2).weight.shape == (3, 4, 3, 3)
