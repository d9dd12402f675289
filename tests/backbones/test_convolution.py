"""A convolution is what torch computes, however few passes over memory it takes."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from onelook.backbones import convolution
from onelook.backbones.convolution import Conv, can_fuse
from onelook.data.embed import precision

SHAPES = [(8, 2, 3), (9, 2, 3), (8, 2, 5), (7, 1, 5), (6, 1, 3), (5, 2, 5), (6, 1, 1)]


@pytest.fixture(params=["torch", "fused"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(convolution, "can_fuse", lambda _: False)
    elif not can_fuse(torch.float32):
        pytest.skip("this torch cannot fuse")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("size", "stride", "kernel"), SHAPES)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("relu6", [True, False])
def test_it_is_padded_to_the_right_and_the_bottom_and_cut_at_0_and_6(
    size: int, stride: int, kernel: int, groups: int, relu6: bool
) -> None:
    conv = Conv(4, 8, kernel, stride, groups, relu6, odd=size % 2 == 1)
    x = 20 * torch.randn(2, 4, size, size + 2)
    padding: list[int] = []
    for n in (size + 2, size):
        rest = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        padding += [rest // 2, rest - rest // 2]
    expected = functional.conv2d(functional.pad(x, padding), conv.weight, conv.bias, stride, groups=groups)
    expected = functional.relu6(expected) if relu6 else expected
    assert expected.shape[2:] == (-(-size // stride), -(-(size + 2) // stride))
    with torch.inference_mode():
        torch.testing.assert_close(conv(x), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_what_it_is_added_to_makes_the_sum(name: str) -> None:
    conv, x, onto = Conv(4, 8, relu6=False), torch.randn(2, 4, 5, 6), torch.randn(2, 8, 5, 6)
    expected = functional.conv2d(x, conv.weight, conv.bias) + onto
    close = {"float32": (1e-5, 1e-5), "bfloat16": (0.02, 0.05)}[name]
    with torch.inference_mode(), precision(name, torch.device("cpu")):
        found = conv(x, onto.clone())
    torch.testing.assert_close(found.float(), expected, rtol=close[0], atol=close[1])


@pytest.mark.usefixtures("way")
def test_it_computes_in_the_precision_of_the_context() -> None:
    conv, x = Conv(4, 8, 3), torch.randn(2, 4, 6, 6)
    with torch.inference_mode():
        exact = conv(x)
        with precision("bfloat16", torch.device("cpu")):
            rounded = conv(x)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.02)


def test_it_has_gradients_where_they_are_asked_for() -> None:
    x = torch.randn(1, 2, 5, 5, requires_grad=True)
    nn.Sequential(Conv(2, 4, 3, 2), Conv(4, 1, relu6=False))(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("error", [AttributeError("no such operator"), RuntimeError("expected 9 arguments")])
def test_a_torch_without_the_operator_computes_as_before(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(convolution, "_convolve_fused", fail)
    assert not can_fuse.__wrapped__(torch.float32)


def test_the_trial_does_not_depend_on_the_precision_of_the_context() -> None:
    with precision("bfloat16", torch.device("cpu")):
        assert can_fuse.__wrapped__(torch.float32) == can_fuse(torch.float32)
