import faulthandler
import json
import os
import shutil
import subprocess
import sys
import time
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing, nn
from torch.distributed import TCPStore

import lfkit
from lfkit import distributed
from lfkit.engine import Trainer
from lfkit.faults import Fault
from lfkit.losses import WEIGHT_NAMES

RANKS = 2
PATIENCE = 180  # seconds that two ranks may take for what lasts ten; a rank that waits for ever then says where


def run_rank(rank, port, work, folder, arguments):
    """One rank's part of `on_ranks`, in a process of its own."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    faulthandler.dump_traceback_later(PATIENCE - 10, exit=True)
    with distributed.group("cpu"):
        torch.save(work(*arguments), folder / f"{rank}.pt")
    faulthandler.cancel_dump_traceback_later()


def on_ranks(work, folder, *arguments):
    """What work gives on each of two ranks. They are spawned: a fork takes over locks that a thread of this process may hold just then."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # here, as torchrun's: a port found free earlier may be taken by then
    folder.mkdir(exist_ok=True)
    ranks = multiprocessing.start_processes(run_rank, (store.port, work, folder, arguments), RANKS, join=False, daemon=True, start_method="spawn")
    end = time.monotonic() + PATIENCE
    while not ranks.join(timeout=1, grace_period=10):
        if time.monotonic() > end:
            for process in ranks.processes:
                process.kill()
            pytest.fail(f"{work.__name__} did not end on both ranks within {PATIENCE} s")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


def trained(args):
    """A run's last report, the weights on this rank, which scenes it validated, and which files it wrote itself."""
    written, tested, replace, scenes = [], [], os.replace, lfkit.engine.validation_scenes
    os.replace = lambda *paths: (written.append(str(paths[1])), replace(*paths))
    lfkit.engine.validation_scenes = lambda *which: (tested.append(scene[0]) or scene for scene in scenes(*which))
    report = list(lfkit.fit(args, torch.device("cpu")))[-1]
    os.replace, lfkit.engine.validation_scenes = replace, scenes
    weights = lfkit.load_model(report["log_path"] / "model_state" / "model_last.pkl")[0].state_dict()
    return {"curves": report["curves"], "log_path": str(report["log_path"]), "validation": report["validation"], "weights": weights,
            "written": written, "tested": tested}


@pytest.fixture
def three(args, data_dir, tmp_path):
    """Arguments of a run that validates three scenes and trains on one, five crops of it; an odd number of them a step."""
    root = tmp_path / "d"
    shutil.copytree(data_dir, root)
    names = sorted(path.stem for path in (root / "LFs").glob("*.npy"))
    (root / "testing_images.txt").write_text("\n".join(names[1:4]))
    (root / "debug_testing_images.txt").write_text(names[4])
    args.data_dir, args.if_debug, args.crops_per_scene, args.epoch = str(root), 0, 5, 2
    return args


def trained_by_sgd(args):
    """Adam would blow up the rounding of gradients near 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lfkit.engine.make_optimizer", lambda args, model: torch.optim.SGD(model.parameters(), lr=0.1))
        return trained(args)


@pytest.fixture
def both(three, tmp_path):
    """The same run by one process with batches of two, and by two with batches of one."""
    three.loss3_weight = 0.0  # the closer looks of a network that learned nothing magnify rounding, too
    three.batch_size, three.log_dir = 2, str(tmp_path / "one")
    alone = trained_by_sgd(three)
    three.batch_size, three.log_dir = 1, str(tmp_path / "two")
    return alone, on_ranks(trained_by_sgd, tmp_path / "out", three)


def test_two_ranks_train_as_one_process(both):
    """Five crops: the last step has one, and a rank without any."""
    alone, ranks = both
    for name, value in ranks[0]["weights"].items():
        assert torch.equal(value, ranks[1]["weights"][name]), name
    apart = [(value - alone["weights"][name]).flatten() for name, value in ranks[0]["weights"].items()]
    assert torch.cat(apart).norm() < 1e-2  # rounding, magnified: 0.005; steps of crops weighted otherwise lie some 0.03 apart
    assert ranks[0]["curves"] == ranks[1]["curves"]
    for name, curve in alone["curves"].items():
        assert ranks[0]["curves"][name] == pytest.approx(curve, rel=0.02), name  # rounding, magnified
    # three scenes of which one rank has two, in the order of the list; the first validation is of the same weights, and equal to the last bit
    for name in ("test_metric", "bad_pix"):
        assert ranks[0]["curves"][name][0] == alone["curves"][name][0]
    assert list(ranks[1]["validation"]["scenes"]) == list(alone["validation"]["scenes"]) and len(alone["validation"]["scenes"]) == 3
    first, second, third = alone["validation"]["scenes"]
    assert ranks[0]["tested"] == [first, third] * 2 and ranks[1]["tested"] == [second] * 2
    assert ranks[1]["written"] == [] and ranks[0]["written"], "one rank writes"
    log_path = Path(ranks[0]["log_path"])
    assert ranks[1]["log_path"] == str(log_path) and len(list((log_path / "validation" / "epoch0").glob("*_pred.png"))) == 3
    assert json.loads((log_path / "environment.json").read_text())[0]["processes"] == 2


def half_and_whole(args, log_dir):
    """A run that ends after its first epoch and goes on, and one that does not end."""
    whole = trained(args)
    args.log_dir = log_dir
    run = lfkit.fit(args, torch.device("cpu"))
    next(run)
    run.close()
    args.resume = "auto"
    return whole, trained(args)


def test_two_ranks_resume_exactly(three, tmp_path):
    three.batch_size, three.average = 1, 0.9
    for whole, resumed in on_ranks(half_and_whole, tmp_path / "out", three, str(tmp_path / "other")):
        assert resumed["curves"] == whole["curves"] and all(torch.equal(value, whole["weights"][name]) for name, value in resumed["weights"].items())


def test_steps_count_every_crop_alike(monkeypatch):
    """Each crop of a step has the same total weight over the ranks, and every crop comes once, for any number of them."""
    for ranks in (1, 2, 3):
        monkeypatch.setattr(distributed, "world", lambda: ranks)
        for crops in range(1, 14):
            shares = []
            for rank in range(ranks):
                monkeypatch.setattr(distributed, "rank", lambda: rank)
                shares.append(distributed.share_batches(list(range(crops)), batch_size=2, accumulate=2))
            assert len({tuple(len(step) for step in share) for share in shares}) == 1, "all ranks keep step"
            seen = []
            for steps in zip(*shares):
                mean = {}
                for crop, weight in ((crop, weight / len(part) / ranks) for step in steps for part, weight in step for crop in part if weight):
                    mean[crop] = mean.get(crop, 0) + weight
                assert list(mean.values()) == pytest.approx([1 / len(mean)] * len(mean))
                seen += mean
            assert sorted(seen) == list(range(crops))


def fails_on_first(kind):
    def work():
        raise kind("the sentence")
    try:
        distributed.on_first(work)
    except Exception as error:
        return type(error), str(error)


def several(_):
    part = {f"s{k}": k for k in range(distributed.rank(), 5, RANKS)}
    return [fails_on_first(Fault), fails_on_first(KeyError), distributed.on_first(lambda: distributed.rank()), list(distributed.merge(part)),
            [distributed.on_any(distributed.rank() == k, torch.device("cpu")) for k in (0, 1, 2)]]


def test_ranks_share_what_one_finds(tmp_path):
    for got in on_ranks(several, tmp_path, None):
        assert got == [(Fault, "the sentence"), (Fault, "rank 0 ended with KeyError: 'the sentence'"), 0, ["s0", "s1", "s2", "s3", "s4"],
                       [True, True, False]]


class Poisoned(lfkit.DatasetLF):
    def __getitem__(self, index):
        item = super().__getitem__(index)
        if index == 3:
            item[0][:] = np.nan
        return item


def stops(args):
    lfkit.engine.open_training = lambda args, device: Poisoned(args)
    try:
        list(lfkit.fit(args, torch.device("cpu")))
    except Fault as fault:
        return str(fault)


def test_a_loss_that_is_no_number_on_one_rank_stops_both(three, tmp_path):
    three.batch_size = 1
    first, second = on_ranks(stops, tmp_path / "out", three)
    assert first == second and "the loss is not finite in epoch 0" in first and first.count("synthetic_") == 1
    assert len(list(Path(three.log_dir).glob("*/nonfinite_epoch0_step*.pkl"))) == 1


def test_every_output_has_a_gradient_where_several_ranks_wait_for_it(args, monkeypatch):
    """Also the one of which no pixel counts: the occluder lies beyond the levels all over."""
    monkeypatch.setattr(distributed, "world", lambda: 2)
    outputs = torch.full((1, 9, 8, 8), 1 / 9), torch.full((1, 9, 8, 8), 1 / 9), torch.zeros(1, 8, 8)
    for out in outputs:
        out.requires_grad_()
    trainer = Trainer(args, lambda x: outputs, nn.L1Loss(), nn.L1Loss(), None, None, 0, dict.fromkeys(WEIGHT_NAMES, 1.0), torch.device("cpu"), None,
                      None, None, None)
    fg_disp, bg_disp = torch.full((1, 8, 8), 7.0), torch.ones(1, 8, 8)
    trainer.loss((torch.zeros(1, 3, 3, 8, 8, 3), bg_disp, bg_disp, fg_disp, bg_disp))[0].backward()
    assert (outputs[0].grad == 0).all() and outputs[1].grad.abs().sum() > 0 and outputs[2].grad.abs().sum() > 0


class Lost(lfkit.DatasetLF):
    """Its items can't be read on the second rank."""

    def __getitem__(self, index):
        if distributed.rank() == 1:
            raise ValueError("the second rank's own sentence")
        return super().__getitem__(index)


def loses(args):
    lfkit.engine.open_training = lambda args, device: Lost(args)
    try:
        list(lfkit.fit(args, torch.device("cpu")))
    except (Fault, ValueError) as error:
        distributed.distributed.destroy_process_group()  # as a process that ends
        return str(error)


def test_a_rank_that_ends_ends_the_others(three, tmp_path):
    three.batch_size = 1
    first, second = on_ranks(loses, tmp_path / "out", three)
    assert "another rank has ended, and says why itself" in first and second == "the second rank's own sentence"


@pytest.mark.parametrize("name, device, sentence", [
    ("cpu", "cpu", None), ("auto", "cpu", None),
    ("cuda", None, "torchrun started 2 ranks on a machine with 0 CUDA devices; use --nproc-per-node=1, or --device cpu"),
    ("cuda:0", None, "--device cuda:0 would put 2 ranks on one device; use --device auto")])
def test_each_rank_has_a_device_of_its_own(monkeypatch, name, device, sentence):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if sentence is None:
        assert distributed.local_device(name) == device
        return
    with pytest.raises(ValueError, match=sentence):
        distributed.local_device(name)


def test_each_rank_takes_the_device_of_its_number(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert distributed.local_device("auto") == distributed.local_device("cuda") == "cuda:1"


def test_torchrun_runs_the_command_line(three, tmp_path):
    flags = ["--data_dir", three.data_dir, "--log_dir", str(tmp_path / "log"), "--channels", "4", "--views_num", "3", "--patch_size", "24",
             "--epoch", "1", "--device", "cpu"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lfkit", "train", *flags]
    environment = os.environ | {"PYTHONPATH": str(Path(lfkit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Training epoch 0") == 1 and len(list((tmp_path / "log").iterdir())) == 1


STUB = """#!/usr/bin/env bash
echo "$@" >> {calls}
[ "$(wc -l < {calls})" -gt {failures} ]
"""


@pytest.mark.parametrize("failures, environment, calls, status", [
    (0, {}, 1, 0), (2, {"MIN_SECONDS": "0"}, 3, 0), (9, {"MIN_SECONDS": "0", "RETRIES": "1"}, 2, 1), (9, {}, 1, 1)])
def test_run_sh_goes_on_after_a_crash(tmp_path, failures, environment, calls, status):
    """But not after one within the first minute, which a wrong flag is."""
    stub = tmp_path / "python"
    stub.write_text(STUB.format(calls=tmp_path / "calls", failures=failures))
    stub.chmod(0o755)
    script = Path(__file__).parents[1] / "run.sh"
    environment = os.environ | {"PYTHON": str(stub), "NPROC": "3"} | environment
    done = subprocess.run([script, "--data_dir", "a b"], env=environment, capture_output=True, check=False)
    lines = (tmp_path / "calls").read_text().splitlines()
    assert done.returncode == status and len(lines) == calls
    assert lines[0] == "-m torch.distributed.run --standalone --nproc-per-node=3 -m lfkit train --data_dir a b"
    assert all(line == lines[0] + " --resume auto" for line in lines[1:])


def test_run_sh_ends_when_it_is_told_to(tmp_path):
    """And what it started with it."""
    stub = tmp_path / "python"
    stub.write_text(f"#!/usr/bin/env bash\necho $$ > {tmp_path / 'pid.tmp'}; mv {tmp_path / 'pid.tmp'} {tmp_path / 'pid'}\nexec sleep 60\n")
    stub.chmod(0o755)
    started = time.monotonic()
    script = subprocess.Popen([Path(__file__).parents[1] / "run.sh"], env=os.environ | {"PYTHON": str(stub), "NPROC": "1"})
    while not (tmp_path / "pid").exists() and time.monotonic() < started + 20:
        time.sleep(0.05)
    script.terminate()
    assert script.wait(20) == 130 and time.monotonic() < started + 40
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
