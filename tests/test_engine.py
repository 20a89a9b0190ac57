import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch import nn

import lfkit
from lfkit import rundir
from lfkit.rundir import make_run_dir, setup_logging
from lfkit.losses import WEIGHT_NAMES
from lfkit.visual import plot_curves

CPU = torch.device("cpu")
WEIGHTS = dict.fromkeys(WEIGHT_NAMES, 1.0)


def epoch(args, model, optimizer, scheduler, number=0, criterion=None):
    return lfkit.train_epoch(args, model, criterion or nn.L1Loss(), nn.L1Loss(), optimizer, scheduler, number, WEIGHTS, CPU)


@pytest.mark.parametrize("name", ["hidden_weight", "outline_weight"])
def test_what_counts_for_more_does_so_in_training(args, name):
    losses = []
    for weight in (0.0, 1.0, 2.0):
        setattr(args, name, weight)
        torch.manual_seed(0)
        losses.append(epoch(args, *lfkit.build(args, CPU))["loss3"])
    assert losses[1] > losses[0] + 0.01 and losses[2] > losses[1] + 0.01


def test_jolts_are_asked_for(args):
    assert lfkit.build(args, CPU)[0].jolt == 0
    args.jolt = 0.25
    assert lfkit.build(args, CPU)[0].jolt == 0.25


def test_an_epoch_averages_over_all_crops(args):
    """The report of an epoch without learning equals the mean over its crops, computed one by one."""
    args.lr, args.batch_size = 0.0, 2  # three crops: a batch of two and one of one
    model, optimizer, scheduler = lfkit.build(args, CPU)
    report = epoch(args, model, optimizer, scheduler, number=4)
    dataset = lfkit.DatasetLF(args)
    dataset.set_epoch(4)
    losses, errors = [], []
    for lf, _, _, fg, bg in (dataset[k] for k in range(3)):
        out = model(lf.reshape(1, 9, 24, 24, 3).permute(0, 1, 4, 2, 3), earlier=True)
        losses.append(lfkit.training_loss(out, fg[None], bg[None], nn.L1Loss(), nn.L1Loss(), WEIGHTS, 4, 1)[1]["loss"])
        errors.append(float((out[2][0] - bg)[11:-11, 11:-11].detach().square().mean()))
    assert report["loss"] == pytest.approx(np.mean(losses), rel=1e-3) and report["mse"] == pytest.approx(np.mean(errors), rel=1e-3)
    assert report["loss"] > report["loss1"] + report["loss2"] + report["loss3"]  # the earlier looks are trained too
    assert report["crops"] == 3 and report["epoch"] == 4 and model.training


def test_training_learns(args):
    """The same crops again and again: the loss of the last epochs is below that of the first, by 7 to 24 % with other seeds, or rates that differ by a ten-thousandth."""
    args.crops_per_scene, args.lr = 4, 3e-3
    model, optimizer, scheduler = lfkit.build(args, CPU)
    criterion1 = lfkit.losses.DistributionCrossEntropy()
    losses = [lfkit.train_epoch(args, model, nn.L1Loss(), criterion1, optimizer, scheduler, 0, WEIGHTS, CPU)["loss"] for _ in range(10)]
    assert min(losses[-3:]) < 0.95 * losses[0], losses


@pytest.mark.parametrize("unit, rates", [("epoch", [1e-3, 1e-3, 1e-4]), ("batch", [1e-3, 1e-4, 1e-5])])
def test_the_rate_decays_per_epoch_or_per_batch(args, unit, rates):
    args.decay_step, args.decay_unit, args.lr = 2, unit, 1e-3  # two batches an epoch
    model, optimizer, scheduler = lfkit.build(args, CPU)
    assert [epoch(args, model, optimizer, scheduler, k)["lr"] for k in range(3)] == pytest.approx(rates)


def test_frozen_parameters_are_left_out_of_adam(args, monkeypatch):
    original = lfkit.DeoccNet.__init__
    def frozen(self, *sizes):
        original(self, *sizes)
        self.guide.requires_grad_(False)
    monkeypatch.setattr(lfkit.DeoccNet, "__init__", frozen)
    model, optimizer, _ = lfkit.build(args, CPU)
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters())) - 4


@pytest.mark.parametrize("training", [True, False])
def test_validation_gives_the_model_back_as_it_came(args, tmp_path, training):
    model = lfkit.build(args, CPU)[0].train(training)
    modes = []
    model.register_forward_hook(lambda m, *_: modes.append((m.training, torch.is_inference_mode_enabled())))
    report = lfkit.validation(args, 1, model, float("inf"), tmp_path, CPU)
    assert model.training is training and modes == [(False, True)]
    assert report["is_best"] and report["best_mse"] == report["mse"]


def test_validation_scores_whole_scenes_of_the_chosen_list(args, tmp_path):
    root = Path(args.data_dir)
    names = sorted(p.stem for p in (root / "LFs").glob("*.npy"))
    model = lfkit.build(args, CPU)[0].eval()
    report = lfkit.validation(args, 50, model, 1e-9, tmp_path, CPU)
    (name, scores), = report["scenes"].items()
    scene = lfkit.load_scene(root / "LFs" / f"{name}.npy")
    with torch.inference_mode():
        whole = model(torch.from_numpy(scene.middle(3).lf.astype(np.float32) / 255).reshape(1, 9, 40, 40, 3).permute(0, 1, 4, 2, 3))[2][0].numpy()
    assert name == names[0] and scores["mse"] == pytest.approx(float(((whole - scene.bg_disp)[11:-11, 11:-11] ** 2).mean()), rel=1e-4)
    assert report["mse"] == scores["mse"] and not report["is_best"] and report["best_mse"] == 1e-9
    assert np.allclose(report["predictions"][name], whole, atol=1e-4)


def test_every_scene_of_a_validation_is_saved(args, tmp_path):
    root = Path(args.data_dir)
    args.if_debug = 0
    old = (root / "testing_images.txt").read_text()
    names = sorted(p.stem for p in (root / "LFs").glob("*.npy"))[-2:]
    try:
        (root / "testing_images.txt").write_text("\n".join(names))
        model = lfkit.build(args, CPU)[0]
        lfkit.validation(args, 50, model, 1.0, tmp_path, CPU)
        lfkit.validation(args, 51, model, 1.0, tmp_path, CPU)
    finally:
        (root / "testing_images.txt").write_text(old)
    expected = {f"{n}_{kind}" for n in names for kind in ("train.png", "pred.png", "gt.png", "pred.npy")}
    assert {p.name for p in (tmp_path / "validation" / "epoch50").iterdir()} == expected
    assert not (tmp_path / "validation" / "epoch51").exists()


def test_a_run_leaves_what_the_design_lists(args):
    reports = list(lfkit.fit(args))
    run = reports[0]["log_path"]
    assert [r["epoch"] for r in reports] == [1, 2, 3, 3] and reports[-1]["train"] is None
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    start = run.name.split("_")[2]
    assert run.name.startswith("DeoccNet_NoTagModel_") and len(start) == 8
    assert {f"DeoccNet_{start}.log", "model_best.pkl", "model_state/model_0.pkl", "model_state/model_2.pkl", "model_state/model_3.pkl",
            "train_loss.npy", "train_metric.npy", "test_metric.npy"} <= files
    assert {f.split("/")[1] for f in files if f.startswith("validation/")} == {"epoch0", "epoch3"}  # of --save_image_every 50, and the last
    curves = {name: np.load(run / f"{name}.npy") for name in ("train_loss", "train_metric", "test_metric")}
    assert all(len(c) == 3 for c in curves.values()) and curves["test_metric"][0] == curves["test_metric"][1] != curves["test_metric"][2]
    epochs = [torch.load(run / "model_state" / f"model_{k}.pkl", weights_only=True)["epoch"] for k in (0, 2, 3)]
    assert epochs == [0, 2, 3]
    log = (run / f"DeoccNet_{start}.log").read_text()
    assert log.count("Training epoch") == 3 and log.count("Validation epoch") == 3 and " - INFO - " in log and "dB" not in log


def test_validation_comes_before_training(args):
    report = next(lfkit.fit(args))
    assert report["epoch"] == 1 and report["validation"]["epoch"] == 0 and report["train"]["epoch"] == 0


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_killed_run_resumes_to_the_same_curve_bit_for_bit(args, tmp_path, killed_after):
    args.epoch = 4
    whole = list(lfkit.fit(args))[-1]
    args.log_dir = str(tmp_path / "other")
    run = lfkit.fit(args)
    for _ in range(killed_after):
        first = next(run)
    run.close()  # all that is left is on disk
    torch.manual_seed(123)
    args.resume = "auto"
    resumed = list(lfkit.fit(args))
    assert resumed[-1]["curves"] == whole["curves"] and resumed[-1]["best_mse"] == whole["best_mse"]
    assert resumed[-1]["log_path"] == first["log_path"] and resumed[0]["epoch"] == killed_after + 1
    states = [torch.load(r["log_path"] / "model_state" / "model_4.pkl", weights_only=True)["model_state_dict"] for r in (whole, resumed[-1])]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


KNOBS = [["--average", "0.9", "--schedule", "cosine", "--warm_up", "1"], ["--precision", "fp16", "--clip", "0.5", "--fused", "1"],
         ["--batch_size", "1", "--accumulate", "2", "--precision", "bf16", "--schedule", "cosine", "--decay_unit", "batch", "--warm_up", "3"],
         ["--channels_last", "1", "--dataset_per_epoch", "1", "--average", "0.5"]]


@pytest.mark.parametrize("flags", KNOBS)
def test_a_resumed_run_with_knobs_is_exact(args, tmp_path, flags):
    written = [word for name, value in vars(args).items() if value is not None for word in (f"--{name}", str(value))]
    args = lfkit.get_parser([*written, *flags])
    whole = list(lfkit.fit(args))[-1]
    args.log_dir = str(tmp_path / "other")
    run = lfkit.fit(args)
    next(run), next(run)
    run.close()
    torch.manual_seed(123)
    args.resume = "auto"
    resumed = list(lfkit.fit(args))
    assert resumed[-1]["curves"] == whole["curves"] and len(resumed) == 2
    states = [torch.load(r["log_path"] / "model_state" / "model_3.pkl", weights_only=True) for r in (whole, resumed[-1])]
    for part in ("model_state_dict", "average_state_dict"):
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0].get(part, {}).items())
    for part in ("scaler_state_dict", "scheduler_state_dict", "averaged"):
        assert states[0].get(part) == states[1].get(part)
    assert ("average_state_dict" in states[0]) is ("--average" in flags) and (states[0]["scaler_state_dict"] != {}) is ("fp16" in flags)


def test_a_corrupt_newest_checkpoint_falls_back_on_the_one_before_and_says_so(args, tmp_path):
    whole = list(lfkit.fit(args))[-1]
    args.log_dir = str(tmp_path / "other")
    run = lfkit.fit(args)
    states = [next(run), next(run)][-1]["log_path"] / "model_state"
    run.close()
    newest = states / "model_last.pkl"
    newest.write_bytes(newest.read_bytes()[:1000])
    (states / "model_last.pkl.77.tmp").write_bytes(b"half")
    args.resume = "auto"
    resumed = list(lfkit.fit(args))
    assert resumed[-1]["curves"] == whole["curves"] and resumed[0]["epoch"] == 1
    log = next(states.parent.glob("*.log")).read_text()
    assert f"WARNING - passed over: {newest}: not a whole checkpoint" in log and "model_0.pkl at epoch 0" in log
    assert not list(states.glob("*.tmp"))


def test_only_the_last_checkpoints_and_the_best_stay(args):
    args.keep, args.val_every = 2, 1
    run = list(lfkit.fit(args))[-1]["log_path"]
    assert {p.name for p in (run / "model_state").iterdir()} == {"model_2.pkl", "model_3.pkl", "model_last.pkl"} and (run / "model_best.pkl").exists()


@pytest.mark.parametrize("other", ["a_longer", "a_20260712"])
def test_a_run_of_another_tag_that_begins_alike_is_not_gone_on_with(args, other):
    args.model_msg = other
    list(lfkit.fit(args))
    args.model_msg, args.resume, args.epoch = "a", "auto", 1
    assert next(lfkit.fit(args))["epoch"] == 1


def test_the_averaged_weights_are_validated_and_loaded(args):
    args.average = 0.9
    last = list(lfkit.fit(args))[-1]
    path = last["log_path"] / "model_state" / "model_3.pkl"
    model, checkpoint = lfkit.load_model(path, enlarge=1)  # as a run validates
    assert not all(torch.equal(value, checkpoint["model_state_dict"][name]) for name, value in model.state_dict().items())
    again = lfkit.validation(args, 3, model, 1.0, last["log_path"], CPU)
    assert again["mse"] == last["validation"]["mse"]


class Compiled(nn.Module):
    """Holds a network as torch.compile does, without the minutes that it takes."""

    calls = 0

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model

    def forward(self, x, earlier=False):
        Compiled.calls += 1
        return self._orig_mod(x, earlier)


def test_a_compiled_run_trains_with_it_and_leaves_plain_checkpoints(args, monkeypatch):
    plain = list(lfkit.fit(args))[-1]
    monkeypatch.setattr(torch, "compile", Compiled)
    args.compile, args.average = 1, 0.5
    last = list(lfkit.fit(args))[-1]
    assert Compiled.calls == 6, "two batches in each of three epochs; validation, whose crops differ in size, goes without"
    assert last["curves"]["train_loss"] == plain["curves"]["train_loss"]
    assert lfkit.load_model(last["log_path"] / "model_best.pkl")[0].channels == 4


def test_the_progress_bar_has_the_loss_and_crops_a_second(args, monkeypatch):
    shown = []
    class Bar(list):
        def __init__(self, steps, **options):
            super().__init__(steps)
        def set_postfix(self, values, **_):
            shown.append(values)
    monkeypatch.setattr("lfkit.engine.tqdm", Bar)
    model, optimizer, scheduler = lfkit.build(args, CPU)
    report = epoch(args, model, optimizer, scheduler)
    assert len(shown) == 2 and all(set(values) == {"loss", "gradient", "crops/s"} and float(values["crops/s"]) > 0 for values in shown)
    assert report["crops_per_second"] == pytest.approx(report["crops"] / report["time"])


def test_resuming_a_finished_run_says_so(args, caplog):
    last = list(lfkit.fit(args))[-1]
    args.resume, args.batch_size, kept = "auto", 7, [(last["log_path"] / name).read_text() for name in ("args.json", "environment.json")]
    assert list(lfkit.fit(args)) == []
    assert [(last["log_path"] / name).read_text() for name in ("args.json", "environment.json")] == kept, "nothing was trained with these arguments"
    log = next(last["log_path"].glob("*.log")).read_text()
    assert "has trained all of its 3 epochs; raise --epoch to go on" in log
    args.epoch = 2  # fewer than it has
    assert list(lfkit.fit(args)) == []
    assert next(last["log_path"].glob("*.log")).read_text().count("has trained all of its 3 epochs") == 2
    args.epoch = 4
    assert [r["epoch"] for r in lfkit.fit(args)] == [4, 4]


def test_resuming_a_file_keeps_the_runs_own_device_and_directory(args):
    last = list(lfkit.fit(args))[-1]
    args.model_save_dir, args.epoch = str(last["log_path"] / "model_best.pkl"), 5
    report = list(lfkit.fit(args))[-1]
    assert report["log_path"] == last["log_path"] and report["epoch"] == 5
    args.model_save_dir = str(last["log_path"] / "model_state" / "model_3.pkl")
    args.resume, args.epoch = "auto", 6  # with both, as run.sh has it after a crash: what was trained from the file, not the file once more
    assert [r["epoch"] for r in lfkit.fit(args)] == [6, 6]
    args.model_save_dir, args.epoch = shutil.copy(last["log_path"] / "model_state" / "model_3.pkl", args.log_dir), 4  # newer than all
    assert [r["epoch"] for r in lfkit.fit(args)] == [4, 4]


def test_a_run_that_goes_on_under_another_tag_is_told_so(args, capfd):
    last = list(lfkit.fit(args))[-1]
    args.model_save_dir, args.epoch = str(last["log_path"] / "model_best.pkl"), 4
    list(lfkit.fit(args))
    assert "goes on where it lies" not in capfd.readouterr().err
    args.model_msg, args.epoch = "another", 5
    assert list(lfkit.fit(args))[-1]["log_path"] == last["log_path"]
    assert f"goes on where it lies, in {last['log_path']}, not as {args.model_name}_another under {args.log_dir}; start a new one with --start_from" in capfd.readouterr().err
    args.model_msg, args.log_dir, args.epoch = "NoTagModel", str(Path(args.log_dir) / "elsewhere"), 6
    assert list(lfkit.fit(args))[-1]["log_path"] == last["log_path"] and not Path(args.log_dir).exists()
    assert f"goes on where it lies, in {last['log_path']}, not as {args.model_name}_NoTagModel under {args.log_dir}; start a new one with --start_from" in capfd.readouterr().err


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, torch.OutOfMemoryError])
def test_a_run_that_never_started_leaves_nothing(args, monkeypatch, error):
    def stop(*_):
        raise error("stopped")
    monkeypatch.setattr("lfkit.engine.open_training", stop)
    claimed = set(rundir._claimed)
    with pytest.raises(error):
        list(lfkit.fit(args))
    assert list(Path(args.log_dir).iterdir()) == [] and set(rundir._claimed) == claimed


def test_a_run_that_goes_on_with_other_losses_is_told_so(args, capfd):
    args.criterion1, args.epoch = "ce", 1
    list(lfkit.fit(args))
    args.resume, args.epoch = "auto", 2
    list(lfkit.fit(args))
    assert "from here on" not in capfd.readouterr().err
    args.epoch, args.criterion1, args.seed = 3, "l1", 7
    list(lfkit.fit(args))
    assert "from here on the run has --criterion1 l1 (before: ce), --seed 7 (before: 0)\n" in capfd.readouterr().err


def test_a_run_goes_on_without_what_it_started_from(args, tmp_path):
    start = shutil.copy(next(lfkit.fit(args))["log_path"] / "model_state" / "model_last.pkl", tmp_path / "start.pkl")
    args.start_from, args.log_dir, args.epoch = str(start), str(tmp_path / "second"), 1
    list(lfkit.fit(args))
    start.unlink()
    args.resume, args.epoch = "auto", 2
    assert [r["epoch"] for r in lfkit.fit(args)] == [2, 2]
    args.resume = ""
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*start.pkl"):
        next(lfkit.fit(args))


def test_a_run_is_left_to_other_processes_when_it_ends(args):
    args.epoch = 2
    take = "import sys; from pathlib import Path; from lfkit.rundir import claim_run; claim_run(Path(sys.argv[1]))"
    other = lambda path: subprocess.run([sys.executable, "-c", take, str(path)], capture_output=True, text=True, check=False)
    reports = lfkit.fit(args)
    run = next(reports)["log_path"]
    assert "another process is training in it" in other(run).stderr
    args.resume, again = "auto", lfkit.fit(args)
    next(again)
    reports.close()  # as a loop that is left does
    assert "another process is training in it" in other(run).stderr  # a second one of this process goes on in it
    again.close()
    assert other(run).returncode == 0
    assert list(lfkit.fit(args))[-1]["log_path"] == run and other(run).returncode == 0


def test_a_run_that_has_just_begun_has_curves_without_an_epoch(args, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt
    monkeypatch.setattr("lfkit.engine.train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(lfkit.fit(args))
    run = lfkit.best_checkpoint(args.log_dir).parent
    curves = {name: np.load(run / f"{name}.npy") for name in ("train_loss", "train_metric", "test_metric")}
    assert all(curve.shape == (0,) for curve in curves.values()) and plot_curves(curves).axes[0].lines[0].get_xdata().size == 0


def test_weights_that_nothing_can_go_on_from_leave_no_run_behind(args):
    args.model_save_dir = str(lfkit.checkpoint.WEIGHTS)
    with pytest.raises(ValueError, match="is of another architecture"):
        next(lfkit.fit(args))
    assert not list(Path(args.log_dir).glob("*"))


def test_going_back_leaves_a_better_best(args):
    args.val_every, args.epoch = 1, 2
    run = list(lfkit.fit(args))[-1]["log_path"]
    best, first = run / "model_best.pkl", run / "model_state" / "model_1.pkl"
    better = torch.load(best, weights_only=True) | {"best_mse": 1e-9}  # of a later epoch
    torch.save(better, best)
    before = best.read_bytes()
    args.model_save_dir, args.seed = str(first), 9
    *_, last = lfkit.fit(args)
    assert last["log_path"] == run and last["best_mse"] == 1e-9 and best.read_bytes() == before
    assert "model_best.pkl, of MSE x100 0.0000, is better than what the run goes on from" in next(run.glob("*.log")).read_text()
    best.write_bytes(before[:100])  # a damaged one keeps no run from going on
    *_, last = lfkit.fit(args)
    assert last["epoch"] == 2


def test_a_seed_may_be_a_time_stamp(args):
    args.seed, args.epoch = 20250704120000, 1
    assert next(lfkit.fit(args))["epoch"] == 1


def test_current_iter_is_the_first_epoch(args):
    args.current_iter = 2
    assert [r["epoch"] for r in lfkit.fit(args)] == [3, 3]


def test_a_scene_set_read_anew_each_epoch_trains_the_same(args):
    once = list(lfkit.fit(args))[-1]["curves"]
    args.dataset_per_epoch = 1
    assert list(lfkit.fit(args))[-1]["curves"] == once


def test_two_runs_in_a_minute_do_not_share_a_directory(args):
    paths = {make_run_dir(args)[0] for _ in range(3)}
    assert len(paths) == 3


def test_logging_twice_doubles_no_line(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        setup_logging(tmp_path / name, "x.log")
        logging.getLogger("lfkit").info("to %s", name)
    assert len(logging.getLogger("lfkit").handlers) == 2
    assert (tmp_path / "a" / "x.log").read_text().count("to ") == 1 and (tmp_path / "b" / "x.log").read_text().endswith(" - INFO - to b\n")


def test_pictures_share_the_truths_colour_scale(tmp_path):
    gt = np.linspace(-2, 2, 64, dtype=np.float32).reshape(8, 8)
    folder = lfkit.save_validation_result(tmp_path, 0, "s", np.zeros((8, 8, 3), np.uint8), gt * 0.5, gt)
    pred, true = (iio.imread(folder / f"s_{kind}.png") for kind in ("pred", "gt"))
    same = np.abs(gt[None] - (gt * 0.5)[0, 0]).argmin()  # where the truth has the value that the prediction begins with
    assert np.abs(pred[0, 0].astype(int) - true.reshape(64, -1)[same]).max() <= 6 and not np.array_equal(pred, true)
    assert np.array_equal(np.load(folder / "s_pred.npy"), gt * 0.5)
    with pytest.raises(ValueError, match="maps of one shape"):
        lfkit.save_validation_result(tmp_path, 0, "s", np.zeros((8, 8, 3), np.uint8), gt[:4], gt)


def test_small_scenes_keep_their_middle_and_an_early_end_promises_no_checkpoint(args, tmp_path, capsys):
    lfkit.save_scene(lfkit.synthesize(0, size=16, views_num=3), tmp_path / "d")
    (tmp_path / "d" / "debug_testing_images.txt").write_text("synthetic_000000")
    args.data_dir, args.patch_size = str(tmp_path / "d"), 16
    model = lfkit.build(args, CPU)[0]
    report = lfkit.validation(args, 50, model, 1.0, tmp_path, CPU)
    errors = report["predictions"]["synthetic_000000"] - lfkit.load_scene(tmp_path / "d" / "LFs" / "synthetic_000000.npy").bg_disp
    assert report["mse"] == pytest.approx(float((errors[7:-7, 7:-7] ** 2).mean()), rel=1e-5)
    lfkit.save_scene(lfkit.synthesize(1, size=40, views_num=3), tmp_path / "d")
    (tmp_path / "d" / "debug_testing_images.txt").write_text("")
    with pytest.raises(ValueError, match="names no scene"):
        next(lfkit.fit(args, CPU))
    told = capsys.readouterr().err
    assert "nothing had been saved yet" in told and "--resume auto" not in told


def test_an_end_between_the_best_and_the_numbered_checkpoint_tells_of_the_best(args, monkeypatch, capfd):
    save = lfkit.engine.save_checkpoint
    def stopped(*given, **named):
        if given[5].parent.name == "model_state":
            raise KeyboardInterrupt
        save(*given, **named)
    monkeypatch.setattr("lfkit.engine.save_checkpoint", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(lfkit.fit(args))
    (best,) = Path(args.log_dir).glob("*/model_best.pkl")
    assert f"{best.parent} holds the last whole checkpoint, go on with --resume auto" in capfd.readouterr().err


def test_validation_without_truth(args, tmp_path):
    scene = lfkit.synthesize(0, size=40)
    scene.bg_disp = None
    lfkit.save_scene(scene, tmp_path / "d")
    (tmp_path / "d" / "debug_testing_images.txt").write_text(scene.name)
    args.data_dir = str(tmp_path / "d")
    with pytest.raises(ValueError, match="has no true disparity to validate against"):
        lfkit.validation(args, 0, lfkit.build(args, CPU)[0], 1.0, tmp_path, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_cuda(args):
    args.device = "cuda"
    assert list(lfkit.fit(args))[-1]["epoch"] == 3


def test_a_run_that_goes_on_keeps_its_rate_and_says_so(args):
    first = list(lfkit.fit(args))[-1]["log_path"]
    args.resume, args.epoch, args.lr, args.gamma, args.decay_step = "auto", 4, args.lr / 8, args.gamma / 2, args.decay_step + 3
    wanted = args.lr
    list(lfkit.fit(args))
    log = next(first.glob("*.log")).read_text()
    for name in ("lr", "gamma", "decay_step"):
        assert f"a run that goes on keeps its --{name} " in log
    assert json.loads((first / "args.json").read_text())["lr"] == 8 * wanted == args.lr


@pytest.mark.parametrize("name, value, sentence", [("max_disp", 5.0, r"was trained with --max_disp 4(\.0)?, not --max_disp 5.0; use the same flags, or start a new run with --start_from"), ("step", 0.5, r"--step 1(\.0)?, not --step 0.5")])
def test_a_run_goes_on_with_its_own_levels_alone(args, name, value, sentence):
    args.epoch = 1
    *_, first = lfkit.fit(args)
    args.resume, args.epoch = "auto", 2
    setattr(args, name, value)
    with pytest.raises(ValueError, match=sentence):
        list(lfkit.fit(args))
    args.resume, args.start_from = None, str(first["log_path"] / "model_best.pkl")  # its weights may start another run
    assert list(lfkit.fit(args))[-1]["epoch"] == 2


def test_a_cosine_that_is_made_longer_goes_on_along_the_longer_one(args):
    args.schedule, args.epoch = "cosine", 2
    list(lfkit.fit(args))
    args.resume, args.epoch = "auto", 4
    *_, last = lfkit.fit(args)
    assert last["curves"]["lr"] == pytest.approx([args.lr, args.lr / 2, args.lr / 2, args.lr * 0.5 * (1 - 0.5**0.5)])  # 0 and 1/2 of the way, then 2/4 and 3/4


def test_the_unit_of_decay_stays_a_runs_own(args):
    args.epoch, args.decay_step, args.gamma = 2, 1, 0.5
    list(lfkit.fit(args))
    args.resume, args.epoch, args.decay_unit = "auto", 3, "batch"
    *_, last = lfkit.fit(args)
    assert last["curves"]["lr"] == pytest.approx([args.lr, args.lr / 2, args.lr / 4])
    assert "keeps its --decay_unit epoch: got batch" in next(last["log_path"].glob("*.log")).read_text()


def test_the_best_score_starts_anew_with_other_scenes(args):
    args.epoch, args.val_every = 1, 1
    *_, first = lfkit.fit(args)
    checkpoint = torch.load(first["log_path"] / "model_state" / "model_1.pkl", weights_only=True)
    checkpoint["best_mse"], checkpoint["tested"]["scenes"] = 0.0, {"another": {"mse": 0.0, "bad_pix": 0.0}}
    torch.save(checkpoint, first["log_path"] / "model_state" / "model_1.pkl")
    args.resume, args.epoch = "auto", 2
    *_, last = lfkit.fit(args)
    assert last["best_mse"] == min(last["validation"]["mse"], *last["curves"]["test_metric"][1:]) > 0


def test_a_run_that_another_process_trains_is_left_to_it(args, tmp_path):
    """A process that holds a run's directory is started first, as this one keeps those of its own."""
    args.epoch = 1
    *_, first = lfkit.fit(args)
    copied = tmp_path / "elsewhere" / first["log_path"].name
    shutil.copytree(first["log_path"], copied)
    hold = "import sys; from pathlib import Path; from lfkit.rundir import claim_run; claim_run(Path(sys.argv[1])); print('taken', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", hold, str(copied)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "taken\n"
    left = copied / "curves.csv.1.tmp"  # what the other process is about to write
    left.touch()
    args.log_dir, args.resume, args.epoch = str(copied.parent), "auto", 2
    with pytest.raises(ValueError, match=f"{copied}: another process is training in it; wait until it ends, or start a run of another --model_msg"):
        list(lfkit.fit(args))
    assert left.exists()
    other.kill()
    other.wait(10)
    *_, last = lfkit.fit(args)
    assert last["epoch"] == 2 and last["log_path"] == copied and not left.exists()
    assert [report["epoch"] for report in lfkit.fit(args)] == []  # it is this process' own
