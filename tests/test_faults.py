import errno
import logging
import os
import signal
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import lfkit
from lfkit.checkpoint import read_checkpoint
from lfkit.faults import Fault, explained, undisturbed
from lfkit.files import write_pfm, write_picture, write_text
from lfkit.losses import WEIGHT_NAMES
from lfkit.rundir import setup_logging
from lfkit.visual import save_disparity

CPU = torch.device("cpu")
WEIGHTS = dict.fromkeys(WEIGHT_NAMES, 1.0)


def epoch(args, parts, **more):
    return lfkit.train_epoch(args, parts[0], nn.L1Loss(), nn.L1Loss(), *parts[1:], 0, WEIGHTS, CPU, **more)


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Poisoned(lfkit.DatasetLF):
    """One of its items has a pixel that is no number."""

    bad = 2

    def __getitem__(self, index):
        item = super().__getitem__(index)
        if index == self.bad:
            item[0][0, 0, 0, 0] = float("nan")
        return item


def test_a_loss_that_is_no_number_stops_in_its_step_and_names_its_crops(args, tmp_path):
    args.batch_size = 1
    parts = lfkit.build(args, CPU)
    steps = []
    parts[1].register_step_post_hook(lambda *_: steps.append(weights_of(parts[0])))
    dataset = Poisoned(args)
    sentence = r"the loss is not finite in epoch 0, step (\d), at a rate of 1.00e-03; the step used synthetic_000003 \[\d"
    with pytest.raises(Fault, match=sentence) as caught:
        epoch(args, parts, dataset=dataset, log_path=tmp_path)
    assert dataset.describe(2) in str(caught.value) and "set --clip 1, or start a new run at a lower --lr" in str(caught.value)
    file, = tmp_path.glob("nonfinite_epoch0_step*.pkl")
    state = read_checkpoint(file)
    assert len(steps) == int(file.stem[-1]) and torch.isfinite(weights_of(parts[0])).all()
    assert state["crops"] == [dataset.describe(2)] and torch.isnan(state["batch"]["lf"]).any()
    other = lfkit.load_model(file)[0]
    assert torch.equal(weights_of(other), weights_of(parts[0]))


def test_a_gradient_that_is_no_number_stops_before_the_step(args, tmp_path):
    parts = lfkit.build(args, CPU)
    before = weights_of(parts[0])
    next(parts[0].parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Fault, match="the gradient is not finite in epoch 0, step 0"):
        epoch(args, parts, log_path=tmp_path)
    assert torch.equal(weights_of(parts[0]), before) and list(tmp_path.glob("nonfinite*"))


@pytest.mark.parametrize("batch, patch, sentence", [
    (5, 24, "out of memory with 5 crops of 24 x 24 pixels at a time; try --batch_size 2 --accumulate 3 (as many crops a step), or --patch_size 16"),
    (1, 24, "out of memory with 1 crops of 24 x 24 pixels at a time; try --patch_size 16"), (1, 16, "out of memory with 1 crops of 16 x 16 pixels at a time; try fewer --channels")])
def test_out_of_memory_says_what_to_try_and_gives_the_memory_back(args, batch, patch, sentence, monkeypatch):
    args.batch_size, args.patch_size = batch, patch
    parts, held = lfkit.build(args, CPU), []
    def forward(x, earlier=False):
        big = torch.zeros(1000)
        held.append(weakref.ref(big))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    monkeypatch.setattr(parts[0], "forward", forward)
    with pytest.raises(Fault) as caught:
        epoch(args, parts)
    assert str(caught.value) == sentence and held[0]() is None, "the error that a notebook keeps must hold no tensor"


def test_out_of_memory_in_validation_names_the_crop(args, monkeypatch):
    def forward(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    monkeypatch.setattr(lfkit.DeoccNet, "forward", forward)
    with pytest.raises(Fault, match="out of memory on cpu with one crop of 40 x 40 pixels, the least that shave 16 allows"):
        next(lfkit.fit(args))


@pytest.mark.parametrize("length, shave, sentence", [
    (96, "auto", "with crops of 96 pixels; try --test_length 64"), ("auto", "auto", "with crops as large as seemed to fit; try --test_length 96 --shave 16"),
    (48, 16, "with crops of 48 pixels; try --test_length 40"), (40, 16, "with crops of 40 pixels; try a smaller --shave")])  # 32 would have nothing to keep
@pytest.mark.parametrize("text", ["[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_a_library_without_memory_says_what_to_try(args, length, shave, sentence, text):
    args.test_length, args.shave = length, shave
    with pytest.raises(Fault, match=f"^out of memory while validating {sentence}$"), explained(args, training=False):
        raise RuntimeError(text)


class Deadly(lfkit.DatasetLF):
    """Its second item kills the process that reads it, as a system without memory does."""

    def __getitem__(self, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_lost_loader_process(args):
    args.num_workers = 1
    with pytest.raises(Fault, match=r"a loader process is gone \(DataLoader worker .*try less than --num_workers 1, 0 for none"):
        epoch(args, lfkit.build(args, CPU), dataset=Deadly(args))


def test_a_full_disk_in_mid_run_leaves_the_last_checkpoint_whole(args, monkeypatch):
    run = lfkit.fit(args)
    log_path = next(run)["log_path"]
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("lfkit.files.os.fsync", full)
    sentence = r"model_last\.pkl: could not be written \(No space left on device\); the one before it is whole; free some space"
    with pytest.raises(Fault, match=sentence):
        list(run)
    assert lfkit.find_checkpoint(args.log_dir) == log_path / "model_state" / "model_last.pkl" and not list(log_path.rglob("*.tmp"))
    log = next(log_path.glob("*.log")).read_text()
    assert "ended in epoch 2" in log and "go on with --resume auto" in log


@pytest.mark.parametrize("name, write", [
    ("a.pfm", lambda path, value: write_pfm(path, np.full((8, 8), value, np.float32))), ("a.png", lambda path, value: write_picture(path, np.full((8, 8, 3), value, np.uint8))),
    ("a.html", lambda path, value: write_text(path, str(value))), ("b.png", lambda path, value: save_disparity(path, np.full((8, 8), value, np.float32), (0, 9)))])
def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch, name, write):
    write(tmp_path / name, 1)
    before = (tmp_path / name).read_bytes()
    write(tmp_path / name, 2)
    assert (tmp_path / name).read_bytes() != before
    write(tmp_path / name, 1)
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("lfkit.files.os.fsync", full)
    with pytest.raises(Fault, match=rf"{name}: could not be written \(No space left on device\); the one before it is whole"):
        write(tmp_path / name, 2)
    assert (tmp_path / name).read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [name]


def test_a_log_file_that_cannot_be_written_says_nothing_of_its_own(tmp_path, capfd):
    setup_logging(tmp_path, "a.log")
    handler = logging.getLogger("lfkit").handlers[0]
    handler.stream.close()
    handler.stream = open("/dev/full", "w") if os.path.exists("/dev/full") else pytest.skip("no /dev/full")
    logging.getLogger("lfkit").warning("x" * 10000)
    told = capfd.readouterr().err
    assert "x" * 10000 in told and "Traceback" not in told


def test_a_picture_that_does_not_fit_on_the_disk(args, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "s_pred.png")
    monkeypatch.setattr("lfkit.engine.save_validation_result", full)
    with pytest.raises(Fault, match=r"the disk is full \(.*s_pred\.png'\); free some space"):
        next(lfkit.fit(args))


@pytest.mark.parametrize("which, sentence", [(1, "vanished in mid run; put it back"), (0, r"not in .*d; correct the list or add the scene")])
def test_a_scene_that_vanishes_in_mid_run(args, tmp_path, which, sentence):
    args.dataset_per_epoch, args.val_every, args.data_dir = 1, 1, str(tmp_path / "d")
    names = lfkit.write_synthetic(args.data_dir, scenes=5, size=40, seed=0, render=lfkit.synthesize)
    run = lfkit.fit(args)
    log_path = next(run)["log_path"]
    for path in (tmp_path / "d").rglob(f"{names[which]}.npy"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{names[which]}.* {sentence}"):
        list(run)
    whole = read_checkpoint(lfkit.find_checkpoint(args.log_dir))
    assert whole["epoch"] == 1 and "ended in epoch 1" in next(log_path.glob("*.log")).read_text()


class Interrupts(lfkit.DatasetLF):
    """Ctrl-C comes while its third crop is read, once."""

    left = 3

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(index)


def test_ctrl_c_in_mid_epoch_leaves_model_and_optimizer_usable(args):
    """As in two cells of a notebook: the second one's epoch, on the same objects, is that of a network that took the first's steps."""
    args.batch_size = 1
    parts, others = lfkit.build(args, CPU), lfkit.build(args, CPU)
    with pytest.raises(KeyboardInterrupt):
        epoch(args, parts, dataset=Interrupts(args))
    count = []
    stop = others[1].register_step_post_hook(lambda *_: count.append(1) or len(count) == 2 and signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        epoch(args, others)
    stop.remove()
    assert all(p.grad is None for model in (parts[0], others[0]) for p in model.parameters()), "no gradient is left to be added to"
    assert torch.equal(weights_of(parts[0]), weights_of(others[0]))
    assert epoch(args, parts)["loss"] == epoch(args, others)["loss"]


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_ctrl_c_inside_a_step_waits_for_its_end(args, precision):
    args.batch_size, args.precision = 1, precision
    parts = lfkit.build(args, CPU)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=precision == "fp16")  # no step is left out for an overflow
    steps = []
    before = parts[1].register_step_pre_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    parts[1].register_step_post_hook(lambda *_: steps.append(1))
    with pytest.raises(KeyboardInterrupt):
        epoch(args, parts, scaler=scaler)
    before.remove()
    assert len(steps) == 1
    epoch(args, parts, scaler=scaler)  # would fail with a scaler that stopped half-way
    assert len(steps) == 4


def test_ctrl_c_in_fit_and_the_next_cell_goes_on(args, tmp_path, monkeypatch):
    whole = list(lfkit.fit(args))[-1]
    args.log_dir = str(tmp_path / "other")
    monkeypatch.setattr("lfkit.engine.open_training", lambda args, device: Interrupts(args))
    with pytest.raises(KeyboardInterrupt):
        for report in lfkit.fit(args):
            raise AssertionError("no epoch can be whole")
    monkeypatch.undo()
    args.resume = "auto"
    resumed = list(lfkit.fit(args))
    assert resumed[-1]["curves"] == whole["curves"] and len(list((tmp_path / "other").iterdir())) == 1


def test_undisturbed_puts_the_handler_back():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), undisturbed():
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done and signal.getsignal(signal.SIGINT) is handler
