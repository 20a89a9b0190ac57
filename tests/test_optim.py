import math

import pytest
import torch
from torch import nn

import lfkit
from lfkit.losses import WEIGHT_NAMES
from lfkit.optim import Muon, make_average, orthogonalized, rate_factor

CPU = torch.device("cpu")
WEIGHTS = dict.fromkeys(WEIGHT_NAMES, 1.0)


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(args, parts=None, **state):
    """The parameters after an epoch, and its report."""
    model, optimizer, scheduler = parts or lfkit.build(args, CPU, steps=2)
    report = lfkit.train_epoch(args, model, nn.L1Loss(), nn.L1Loss(), optimizer, scheduler, 0, WEIGHTS, CPU, **state)
    return weights_of(model), report


@pytest.fixture
def plain_sgd(monkeypatch):
    """Steps along the plain gradient, so that a difference of gradients shows in the weights at its own size."""
    monkeypatch.setattr("lfkit.engine.make_optimizer", lambda args, model: torch.optim.SGD(model.parameters(), lr=args.lr))


@pytest.mark.parametrize("crops", [4, 3])
def test_two_batches_of_one_make_the_step_of_a_batch_of_two(args, plain_sgd, monkeypatch, crops):
    """Also the last step, of one crop where the number is odd."""
    args.crops_per_scene, args.lr = 1, 0.1
    monkeypatch.setitem(WEIGHTS, "loss3_weight", 0.0)  # a network that learned nothing magnifies rounding, its closer looks most
    dataset = lfkit.DatasetLF(args)
    dataset.scenes = (dataset.scenes * 2)[:crops]
    together, report = train(args, dataset=dataset)
    args.batch_size, args.accumulate = 1, 2
    apart, in_parts = train(args, dataset=dataset)
    moved = together - weights_of(lfkit.build(args, CPU)[0])
    assert moved.abs().max() > 1e-3 and (together - apart).norm() < 0.1 * moved.norm()  # another weighting is off by a third and more
    assert in_parts["loss"] == pytest.approx(report["loss"], rel=1e-5) and in_parts["crops"] == crops


def test_a_clipped_gradient_has_the_length_asked_for(args, plain_sgd):
    args.lr, args.clip, args.batch_size = 1.0, 0.01, 3  # one step of SGD at rate 1 moves the weights by the gradient
    before = weights_of(lfkit.build(args, CPU)[0])
    after, _ = train(args)
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_long_limit_clips_nothing(args):
    free, _ = train(args)
    args.clip = 1e6
    assert torch.equal(train(args)[0], free)


def test_the_average_follows_by_hand(args):
    """After each step the average keeps `decay` of itself; it starts at the weights after the first."""
    args.average, args.batch_size = 0.75, 1
    model, optimizer, scheduler = parts = lfkit.build(args, CPU)
    average, seen = make_average(args, model), []
    optimizer.register_step_post_hook(lambda *_: seen.append([p.detach().double().clone() for p in model.parameters()]))
    train(args, parts, average=average)
    assert len(seen) == 3
    for k, p in enumerate(average.module.parameters()):
        expected = 0.75 * (0.75 * seen[0][k] + 0.25 * seen[1][k]) + 0.25 * seen[2][k]
        assert torch.allclose(p.double(), expected, atol=1e-6)


def test_warm_up_and_decay_by_hand():
    factors = [rate_factor(k, "step", 2, 99, 3, 0.1) for k in range(7)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 0.1, 0.1, 0.1, 0.01])
    factors = [rate_factor(k, "cosine", 0, 4, 1, 0.1) for k in range(6)]
    assert factors == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0, 0])


@pytest.mark.parametrize("flags, rates", [
    (["--schedule", "cosine", "--warm_up", "1"], [5e-4, 1e-3, 5e-4]),
    (["--schedule", "cosine", "--decay_unit", "batch"], [1e-3, 7.5e-4, 2.5e-4]),  # two of six steps an epoch
    (["--warm_up", "2", "--decay_unit", "batch"], [1e-3 / 3, 1e-3, 1e-3]),
])
def test_the_rate_of_each_epoch(args, flags, rates):
    for name, value in vars(lfkit.get_parser(flags)).items():
        if f"--{name}" in flags:
            setattr(args, name, value)
    model, optimizer, scheduler = parts = lfkit.build(args, CPU, steps=2)
    given = []
    for k in range(3):
        given.append(optimizer.param_groups[0]["lr"])
        train(args, parts)
    assert given == pytest.approx(rates)


def test_a_cosine_over_batches_needs_their_number(args):
    args.schedule, args.decay_unit = "cosine", "batch"
    with pytest.raises(ValueError, match="needs the number of steps an epoch; pass steps, or use --decay_unit epoch"):
        lfkit.build(args, CPU)


@pytest.mark.parametrize("flag, value, atol", [
    ("fused", 1, 2e-4), ("channels_last", 1, 3e-5), ("precision", "bf16", 1e-2), ("precision", "fp16", 1e-2)])
def test_a_knob_of_speed_trains_the_same_network(args, plain_sgd, monkeypatch, flag, value, atol):
    if flag == "fused":
        monkeypatch.undo()
    exact, report = train(args)
    setattr(args, flag, value)
    weights, changed = train(args)
    assert (weights - exact).abs().mean() < atol and changed["loss"] == pytest.approx(report["loss"], rel=0.02)
    if flag == "precision":
        assert not torch.equal(weights, exact)


def test_half_precision_is_the_networks_alone(args):
    args.precision = "bf16"
    kinds, model = [], lfkit.build(args, CPU)[0]
    model.guide[0].register_forward_hook(lambda m, x, out: kinds.append(out.dtype))
    train(args, (model, *lfkit.build(args, CPU)[1:]))
    assert set(kinds) == {torch.bfloat16} and {p.dtype for p in model.parameters()} == {torch.float32}


def test_kernels_with_channels_last_hold_the_same_numbers(args):
    plain = lfkit.build(args, CPU)[0]
    args.channels_last = 1
    model = lfkit.build(args, CPU)[0]
    assert torch.equal(weights_of(model), weights_of(plain))
    together = lambda network: network.guide[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert together(model) and not together(plain)


@pytest.mark.filterwarnings("ignore:Detected call of")  # a step left out is none that the rate waits for
def test_a_gradient_that_overflows_in_fp16_is_left_out_and_the_scale_falls(args):
    args.precision, args.batch_size = "fp16", 3
    parts = lfkit.build(args, CPU)
    before = weights_of(parts[0])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    after, _ = train(args, parts, scaler=scaler)
    assert torch.equal(after, before) and scaler.get_scale() == 2.0**119


def test_orthogonalized_moves_all_singular_values_near_one():
    """And keeps the singular vectors: against a singular value decomposition in float64."""
    x = torch.randn(12, 30, generator=torch.Generator().manual_seed(1))
    for matrix in (x, x.T):
        u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        out = orthogonalized(matrix).double()
        values = torch.diag(u.T @ out @ vh.T)
        assert s.max() / s.min() > 3.5 and values.min() > 0.65 and values.max() < 1.25
        assert (out - u @ torch.diag(values) @ vh).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (64, 5, 3, 3), (24, 40, 1, 1)])
def test_muon_steps_as_pytorchs_do(shape):
    """Kernels as torch.optim.Muon moves the flattened matrix (in bfloat16), the rest as torch.optim.Adam."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(size, generator=generator)
    kernel, bias, head = (nn.Parameter(draw(*size)) for size in (shape, (8,), (2, 5, 3, 3)))
    matrix, theirs, their_head = nn.Parameter(kernel.detach().flatten(1).clone()), nn.Parameter(bias.detach().clone()), nn.Parameter(head.detach().clone())
    ours = Muon([kernel, bias, head], lr=0.01)
    peers = torch.optim.Muon([matrix], lr=0.01, weight_decay=0, adjust_lr_fn="match_rms_adamw"), torch.optim.Adam([theirs, their_head], lr=0.01)
    start = matrix.detach().clone()
    for _ in range(5):
        kernel.grad, bias.grad, head.grad = draw(*shape), draw(8), draw(2, 5, 3, 3)
        matrix.grad, theirs.grad, their_head.grad = kernel.grad.flatten(1).clone(), bias.grad.clone(), head.grad.clone()
        for optimizer in (ours, *peers):
            optimizer.step()
    assert (kernel.flatten(1) - matrix).norm() < 0.03 * (matrix - start).norm()
    assert torch.allclose(bias, theirs, atol=1e-6) and torch.allclose(head, their_head, atol=1e-6)


def test_muon_moves_kernels_of_one_shape_as_if_each_were_alone():
    """However much their gradients differ in size; wide and tall ones, and one that has no gradient."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda *size: nn.Parameter(torch.randn(size, generator=generator))
    together = [draw(8, 3, 3, 3) for _ in range(3)] + [draw(64, 5, 3, 3) for _ in range(2)]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    ours, theirs = Muon(together, lr=0.01), [Muon([p], lr=0.01) for p in alone]
    start = [p.detach().clone() for p in together]
    for _ in range(3):
        for k, (p, q) in enumerate(zip(together, alone)):
            p.grad = None if k == 1 else 10.0**k * torch.randn(p.shape, generator=generator)
            q.grad = p.grad
        for optimizer in (ours, *theirs):
            optimizer.step()
    for k, (p, q, before) in enumerate(zip(together, alone, start)):
        assert torch.allclose(p, q, atol=1e-6) and torch.equal(p, before) == (k == 1)


def test_muon_goes_on_as_if_never_stopped(args, tmp_path):
    args.optimizer = "muon"
    straight = lfkit.build(args, CPU)
    train(args, straight)
    lfkit.save_checkpoint(args, 1, *straight, tmp_path / "model.pkl")
    expected, _ = train(args, straight)
    args.start_from = None
    resumed = lfkit.build(args, CPU)
    lfkit.load_checkpoint(tmp_path / "model.pkl", *resumed)
    assert torch.equal(train(args, resumed)[0], expected)
    args.optimizer = "adam"
    with pytest.raises(ValueError, match="model.pkl: was trained by another optimizer; use its --optimizer muon"):
        lfkit.load_checkpoint(tmp_path / "model.pkl", *lfkit.build(args, CPU))
    model, adam, scheduler = lfkit.build(args, CPU)
    lfkit.save_checkpoint(args, 1, model, adam, scheduler, tmp_path / "model.pkl")
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)  # one group as Adam's, of another kind
    with pytest.raises(ValueError, match="was trained by another optimizer; use its --optimizer adam"):
        lfkit.load_checkpoint(tmp_path / "model.pkl", model, sgd)
