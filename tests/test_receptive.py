import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

import lfkit
from lfkit import overlap_crop_forward, receptive_radius
from lfkit.receptive import aligned


def radius_of(net, **options):
    return receptive_radius(lambda x: net(x[:, 0]), n=1, **options)


def pooled(x, size, pool=F.max_pool2d):
    """Pooling and nearest upsampling, the last blocks filled up, as DeoccNet does."""
    h, w = x.shape[-2:]
    return F.interpolate(pool(F.pad(x, (0, -w % size, 0, -h % size), mode="replicate"), size), scale_factor=size)[..., :h, :w]


def shifted(x, down, right):
    return F.pad(x, (right, 0, down, 0))[..., :x.shape[-2], :x.shape[-1]]


def at_phase(x, phase, other, mod=8):
    """The other at one phase of the pooling, x elsewhere."""
    return torch.where(torch.arange(x.shape[-1]) % mod == phase, other, x)


@pytest.mark.parametrize("expected, net", [
    (0, lambda x: x + 1),
    (1, lambda x: F.avg_pool2d(x, 3, 1, 1)),
    (5, lambda x: F.avg_pool2d(x, (3, 11), 1, (1, 5))),          # the wider axis counts
    (7, lambda x: shifted(x, 0, 7)),                             # one side only
    (60, lambda x: shifted(x, 60, 0)),                           # one jump, nothing between
    (11, lambda x: shifted(x, 9, 11)),                           # aslant: leaves a narrow probe
    (41, lambda x: shifted(x, 41, 40)),
    (3, lambda x: pooled(x, 4)),                                 # from one end of a block to the other
    (7, lambda x: pooled(x, 8, F.avg_pool2d)),
    (5, lambda x: shifted(pooled(x, 4), 0, 2)),                  # at the second phase alone; 4 at the first
    *((far, lambda x, phase=phase, far=far: at_phase(x, phase, shifted(x, 0, far))) for phase in range(8) for far in (2, 9, 60)),
    (4, lambda x: {"a": [x[..., :1, :, :]], "b": (F.max_pool2d(x, 9, 1, 4), x.detach())}),
])
def test_radii_known_by_hand(expected, net):
    assert radius_of(net) == expected


def test_a_stack_of_convolutions():
    torch.manual_seed(0)
    stack = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=8, dilation=4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert radius_of(stack) == 1 + 8
    assert radius_of(stack.double(), dtype=torch.float64) == 9


def test_strided_and_upsampled():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 2, 3, padding=1), nn.Upsample(scale_factor=2))
    # output 2k + 1 reads half-size k - 1 ... k + 1, these 2k - 3 ... 2k + 3: four to the left, output 2k three to the right
    assert radius_of(net, mod=2) == 4


def test_scale():
    assert radius_of(lambda x: F.interpolate(F.avg_pool2d(x, 5, 1, 2), scale_factor=3), scale=3) == 2


def test_a_radius_above_the_first_probe_and_small_slopes():
    def net(x):
        for _ in range(9):
            x = 1e-3 * F.avg_pool2d(x, 17, 1, 8)
        return 1e-9 * x
    assert radius_of(net) == 72


def test_what_has_no_derivative_is_found_by_comparison():
    def net(x):
        best = F.avg_pool2d(x, 5, 1, 2).argmax(1, keepdim=True).to(x)
        return F.avg_pool2d(best, 15, 1, 7), F.avg_pool2d(x, 3, 1, 1)
    assert radius_of(net) == 2 + 7


def test_it_is_kept_until_the_weights_change():
    net = nn.Conv2d(3, 1, 5, padding=2)
    class Views(nn.Module):
        views_num, calls = 1, 0
        def forward(self, x):
            self.calls += 1
            return self.net(x[:, 0])
    model = Views()
    model.net = net
    with torch.no_grad():
        net.weight[..., [0, 4]] = net.weight[..., [0, 4], :] = 0
    assert receptive_radius(model) == 1
    calls = model.calls
    assert receptive_radius(model) == 1 and model.calls == calls
    nn.init.ones_(net.weight)
    with torch.inference_mode():
        assert receptive_radius(model) == 2 and model.calls > calls
    assert net.weight.grad is None


def test_it_is_found_anew_once_a_layer_is_another():
    model = nn.Sequential(nn.Flatten(1, 2), nn.Conv2d(3, 2, 3, padding=1)).eval()
    assert receptive_radius(model, 1) == 1
    model[1] = nn.Conv2d(3, 2, 9, padding=4)
    assert receptive_radius(model, 1) == 4
    model[1].dilation, model[1].padding = (2, 2), (8, 8)
    assert receptive_radius(model, 1) == 8


def test_a_model_may_say_its_own_pooling():
    net = lambda x: pooled(x[:, 0], 16)
    net.pooling = 16
    assert receptive_radius(net, n=1) == 15


def test_a_models_pooling_is_seen_through_an_average_of_its_weights():
    net = nn.AvgPool2d(2)
    net.pooling = 12
    assert aligned(8, net) == aligned(8, AveragedModel(net)) == 24


@pytest.mark.parametrize("most, expected", [(50, 50), (71, 71), (72, 72), (73, 72), (400, 72)])
def test_a_radius_is_not_looked_for_further_than_it_matters(most, expected):
    sides = []
    def net(x):
        sides.append(max(x.shape[-2:]))
        return F.avg_pool2d(x, 145, 1, 72)
    assert radius_of(net, most=most) == expected
    assert radius_of(lambda x: x - x.mean((-1, -2), keepdim=True), most=most) == most
    assert most > 72 or max(sides) <= max(128, 2 * (most + 8))  # probes, no crop to compare


def test_what_is_kept_of_a_radius_knows_how_far_was_looked():
    model = nn.Sequential(nn.Flatten(1, 2), nn.Conv2d(3, 2, (141, 1), padding=(70, 0)), nn.Conv2d(2, 2, (1, 141), padding=(0, 70))).eval()
    for layer in model[1:]:
        nn.init.ones_(layer.weight)
    assert [receptive_radius(model, 1, most=most) for most in (60, 50, 65, 80, 60, math.inf)] == [60, 50, 65, 70, 60, 70]


def test_the_random_states_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    radius_of(lambda x: F.avg_pool2d(x, 3, 1, 1))
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture(scope="module")
def small():
    """A seeded network for 3 x 3 views whose reach is some ten pixels less than that of 9 x 9."""
    torch.manual_seed(0)
    return lfkit.DeoccNet(4, 3, 1, 1.0).eval()


def test_auto_is_exact_for_the_network_and_no_larger_than_needed(small):
    radius = receptive_radius(small)
    x = torch.rand(1, 9, 2 * radius + 61, 33, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = small(x.permute(0, 1, 4, 2, 3))
    length = 2 * radius + 16
    difference = lambda shave: max((a - b).abs().flatten().quantile(0.999) for a, b in zip(overlap_crop_forward(x, small, 1, length, shave), expected))
    # on noise a closer look divides by little, which leaves three digits of a disparity after rounding, and two at a pixel of ten thousand
    assert difference("auto") < 4e-3 and difference(radius) < 4e-3
    assert difference(radius // 24) > 2e-2


@pytest.mark.parametrize("net, sentence", [
    (lambda x: x - x.mean((-1, -2), keepdim=True), "depends on pixels .* away and further, as one with a statistic over the image does"),
    *((lambda x, size=size: pooled(x, size, F.avg_pool2d), "don't equal the whole image .* mod 8 must be a multiple of its pooling") for size in (3, 5, 6, 7, 12, 16, 24, 40)),
    (lambda x: x.round().detach(), "no output of the model has a derivative by its input.*pass shave as a number"),
])
def test_what_can_not_be_found(net, sentence):
    with pytest.raises(ValueError, match=sentence):
        radius_of(net)


def test_the_number_of_views_must_be_known():
    with pytest.raises(ValueError, match="the model has no views_num.*pass n"):
        receptive_radius(lambda x: x)
