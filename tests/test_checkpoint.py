import multiprocessing
import os
import resource
from argparse import Namespace
from collections import namedtuple
from decimal import Decimal

import numpy as np
import pytest
import torch

import lfkit
from lfkit.checkpoint import FORMAT, prune_checkpoints, random_states, read_checkpoint, restore_random_states
from lfkit.faults import Fault


def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="no device 'cuda:99' on this machine: there is cpu"):
        lfkit.load_pretrained("cuda:99")
    with pytest.raises(ValueError, match="enlarge must be 1, 1.5 or 2: got 3"):
        lfkit.load_pretrained(enlarge=3)


class Runs:
    """Pickled code that would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.fixture
def parts(args):
    return lfkit.build(args, torch.device("cpu"))


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.rand(1, 9, 3, 8, 8, generator=torch.Generator().manual_seed(0)))[2].square().mean().backward()
    optimizer.step()


def test_everything_comes_back(args, parts, tmp_path):
    model, optimizer, scheduler = parts
    step(model, optimizer)
    scheduler.step()
    path = tmp_path / "new" / "folder" / "c.pkl"
    lfkit.save_checkpoint(args, 7, model, optimizer, scheduler, path, best_mse=0.25, curves={"train_loss": [1.0, 2.0]})
    args.seed = 99
    other = lfkit.build(args, torch.device("cpu"))
    checkpoint = lfkit.load_checkpoint(path, *other)
    assert checkpoint["epoch"] == 7 and checkpoint["best_mse"] == 0.25 and checkpoint["curves"]["train_loss"] == [1.0, 2.0]
    assert checkpoint["args"]["patch_size"] == 24 and other[2].state_dict() == scheduler.state_dict()
    step(model, optimizer)
    step(*other[:2])  # equal only when Adam's moments came back too
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other[0].state_dict().values()))


def test_load_model_needs_no_sizes(args, parts, tmp_path):
    lfkit.save_checkpoint(args, 0, *parts, tmp_path / "c.pkl")
    model, checkpoint = lfkit.load_model(tmp_path / "c.pkl")
    assert model.channels == 4 and not model.training and checkpoint["epoch"] == 0


def test_no_half_file_and_no_leftover(args, parts, tmp_path):
    path = tmp_path / "c.pkl"
    lfkit.save_checkpoint(args, 1, *parts, path)
    before = path.read_bytes()
    with pytest.raises(Exception):
        lfkit.save_checkpoint(args, 2, *parts, path, bad=lambda: None)  # can't be written
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.pkl"]


def test_cut_short(args, parts, tmp_path):
    path = tmp_path / "c.pkl"
    lfkit.save_checkpoint(args, 1, *parts, path)
    for keep in (0, 10, len(path.read_bytes()) // 2):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match=r"c\.pkl: not a whole checkpoint .*cut short"):
            read_checkpoint(path)


def test_code_is_refused_not_run(tmp_path):
    torch.save({"args": Runs(tmp_path / "ran"), "epoch": 0}, tmp_path / "c.pkl")
    with pytest.raises(ValueError, match="refused, it holds more than tensors and plain values"):
        read_checkpoint(tmp_path / "c.pkl")
    torch.save({"args": Namespace(x=Runs(tmp_path / "ran")), "epoch": 0}, tmp_path / "old.pkl")
    with pytest.raises(ValueError, match=r"old\.pkl: refused, .* \(posix\.system\), and loading it would run code"):
        read_checkpoint(tmp_path / "old.pkl")
    assert not (tmp_path / "ran").exists()


def test_an_old_pickle_with_a_namespace_is_read(parts, tmp_path):
    model, optimizer, scheduler = parts
    old = Namespace(channels=4, views_num=3, max_disp=4, step=1, lr=1e-3, device="cuda:2")
    torch.save({"args": old, "epoch": 5, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(),
                "scheduler_state_dict": scheduler.state_dict()}, tmp_path / "old.pkl")
    loaded, checkpoint = lfkit.load_model(tmp_path / "old.pkl")
    assert checkpoint["args"] == vars(old) and checkpoint["epoch"] == 5 and loaded.channels == 4
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


def test_another_class_is_refused_by_its_name(tmp_path):
    torch.save({"args": Namespace(when=Decimal), "epoch": 0}, tmp_path / "old.pkl")
    with pytest.raises(ValueError, match=r"refused, it holds more than tensors and plain values \(decimal\.Decimal\)"):
        read_checkpoint(tmp_path / "old.pkl")


def test_a_newer_format_says_so(args, parts, tmp_path):
    lfkit.save_checkpoint(args, 0, *parts, tmp_path / "c.pkl", format=FORMAT + 1)
    with pytest.raises(ValueError, match=rf"saved by a newer lfkit, in format {FORMAT + 1} where this one reads up to {FORMAT}; update lfkit"):
        read_checkpoint(tmp_path / "c.pkl")


def test_a_flipped_bit_is_noticed(args, parts, tmp_path):
    lfkit.save_checkpoint(args, 0, *parts, tmp_path / "c.pkl")
    data = bytearray((tmp_path / "c.pkl").read_bytes())
    weight = parts[0].state_dict()["guide.0.weight"].numpy().tobytes()
    data[data.index(weight)] ^= 1
    (tmp_path / "c.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="not a whole checkpoint .the checksum of its .* is wrong"):
        read_checkpoint(tmp_path / "c.pkl")


def test_the_network_is_rebuilt_from_its_own_sizes_whatever_args_say(args, parts, tmp_path):
    args.channels = 99
    lfkit.save_checkpoint(args, 0, *parts, tmp_path / "c.pkl")
    assert lfkit.load_model(tmp_path / "c.pkl")[0].channels == 4


def test_numpy_numbers_and_paths_become_plain(args, parts, tmp_path):
    args.log_dir = tmp_path
    lfkit.save_checkpoint(args, 0, *parts, tmp_path / "c.pkl", best_mse=np.float64(0.5), curves={"a": [np.float32(1)]})
    checkpoint = read_checkpoint(tmp_path / "c.pkl")
    assert checkpoint["best_mse"] == 0.5 and checkpoint["curves"] == {"a": [1.0]} and checkpoint["args"]["log_dir"] == str(tmp_path)
    with pytest.raises(ValueError, match="a checkpoint holds plain values and tensors: got a set"):
        lfkit.save_checkpoint(args, 0, *parts, tmp_path / "d.pkl", names={"a"})


def test_a_sweep_over_numpys_numbers_leaves_checkpoints_that_are_read(args, tmp_path):
    args.lr, args.gamma, args.channels, args.max_disp, args.step = np.logspace(-4, -3, 2)[0], np.float32(0.5), np.int64(4), np.int64(4), np.float64(1)
    model, optimizer, scheduler = lfkit.build(args, torch.device("cpu"))
    size = namedtuple("Size", "h w")(2, 3)
    lfkit.save_checkpoint(args, 0, model, optimizer, scheduler, tmp_path / "c.pkl", more={np.int64(1): 2, tmp_path: size})
    loaded, checkpoint = lfkit.load_model(tmp_path / "c.pkl")
    assert checkpoint["args"]["lr"] == checkpoint["optimizer_state_dict"]["param_groups"][0]["lr"] == pytest.approx(1e-4)
    assert checkpoint["more"] == {1: 2, str(tmp_path): (2, 3)} and (loaded.channels, loaded.max_disp) == (4, 4)


def save_again(args, parts, path, connection):
    """Saves in a process that may not write files of more than 4096 bytes, and tells what came of it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        lfkit.save_checkpoint(args, 2, *parts, path)
    except Fault as fault:
        connection.send(str(fault))


def test_a_file_that_can_not_grow_leaves_the_old_one(args, parts, tmp_path):
    path = tmp_path / "c.pkl"
    lfkit.save_checkpoint(args, 1, *parts, path)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=save_again, args=(args, parts, path, theirs))
    process.start()
    process.join(60)
    assert ours.poll() and ours.recv() == (f"{path}: could not be written (File too large); the one before it is whole; free some space, "
                                           "or correct the folder's rights")
    assert read_checkpoint(path)["epoch"] == 1 and [p.name for p in tmp_path.iterdir()] == ["c.pkl"]


@pytest.mark.parametrize("seconds, kept", [([5, 5, 5, 5], {"model_9", "model_10"}), ([1, 4, 2, 3], {"model_2", "model_9"})])  # of one time; after going back
def test_the_newest_numbered_ones_are_kept(tmp_path, seconds, kept):
    for name, when in zip(("model_0", "model_2", "model_10", "model_9", "model_last", "model_x"), [*seconds, 0, 0]):
        (tmp_path / f"{name}.pkl").touch()
        os.utime(tmp_path / f"{name}.pkl", (when, when))
    prune_checkpoints(tmp_path, 0)
    assert len(list(tmp_path.iterdir())) == 6
    prune_checkpoints(tmp_path, 2)
    assert {p.stem for p in tmp_path.iterdir()} == kept | {"model_last", "model_x"}


def test_another_architecture(args, parts, tmp_path):
    lfkit.save_checkpoint(args, 0, *parts, tmp_path / "c.pkl")
    with pytest.raises(ValueError, match="is of another architecture, .*trained with --channels 4, --views_num 3, --max_disp 4, --step 1.0: use the same"):
        lfkit.load_checkpoint(tmp_path / "c.pkl", lfkit.DeoccNet(channels=8))


def test_another_schedule(args, parts, tmp_path):
    lfkit.save_checkpoint(args, 0, *parts, tmp_path / "c.pkl")
    args.schedule = "cosine"
    with pytest.raises(ValueError, match="its learning rate followed another schedule; use its --schedule step, --warm_up 0"):
        lfkit.load_checkpoint(tmp_path / "c.pkl", *lfkit.build(args, torch.device("cpu")))


@pytest.mark.parametrize("theirs, ours, sentence", [("second_look", "", "its --train_only second_look"), ("", "closer_look", "all of them, without --train_only")])
def test_other_parts_trained(args, tmp_path, theirs, ours, sentence):
    args.train_only = theirs
    lfkit.save_checkpoint(args, 0, *lfkit.build(args, torch.device("cpu")), tmp_path / "c.pkl")
    args.train_only = ours
    with pytest.raises(ValueError, match=f"c.pkl: trained other parts of the network; go on with {sentence}, or start a new run with --start_from"):
        lfkit.load_checkpoint(tmp_path / "c.pkl", *lfkit.build(args, torch.device("cpu")))


def test_weights_alone_are_no_run():
    args = lfkit.get_parser()
    with pytest.raises(ValueError, match="holds weights without the optimizer's state, so that no run can go on from it"):
        lfkit.load_checkpoint(lfkit.checkpoint.WEIGHTS, *lfkit.build(args, torch.device("cpu")))


def test_missing_or_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*; train one with `python -m lfkit train` or run notebooks/03_training\.ipynb"):
        read_checkpoint(tmp_path / "c.pkl")
    torch.save([1, 2], tmp_path / "c.pkl")
    with pytest.raises(ValueError, match="not a checkpoint of lfkit, it lacks args, epoch"):
        read_checkpoint(tmp_path / "c.pkl")


def test_the_newest_whole_one_is_found(args, parts, tmp_path):
    assert lfkit.find_checkpoint(tmp_path) is None
    for age, name in enumerate(("model_0", "model_10", "model_last")):
        path = tmp_path / "A_B_01010000" / "model_state" / f"{name}.pkl"
        lfkit.save_checkpoint(args, age, *parts, path)
        os.utime(path, (age, age))
    path.write_bytes(b"half")
    os.utime(path, (9, 9))
    skipped = []
    assert lfkit.find_checkpoint(tmp_path, "A_B_*", skipped).name == "model_10.pkl"
    assert len(skipped) == 1 and "model_last.pkl" in skipped[0]
    assert lfkit.find_checkpoint(tmp_path, "A_C_*") is None
    best = tmp_path / "A_B_01010000" / "model_best.pkl"
    lfkit.save_checkpoint(args, 9, *parts, best)
    assert lfkit.find_checkpoint(tmp_path).name == "model_10.pkl"
    for name in ("model_0", "model_10"):
        (path.parent / f"{name}.pkl").write_bytes(b"")
    assert lfkit.find_checkpoint(tmp_path) == best


def test_random_states_come_back():
    import random
    draw = lambda: (random.random(), float(np.random.rand()), float(torch.rand(())))
    states = random_states()
    first = draw()
    assert draw() != first
    restore_random_states(states)
    assert draw() == first


def test_a_new_run_starts_from_given_weights(args, tmp_path):
    args.seed = 5
    model, optimizer, scheduler = lfkit.build(args, torch.device("cpu"))
    lfkit.save_checkpoint(args, 7, model, optimizer, scheduler, tmp_path / "given.pkl")
    args.seed, args.start_from = 0, str(tmp_path / "given.pkl")
    fresh, optimizer, _ = lfkit.build(args, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values())) and not optimizer.state
    averaged = {name: value + 1 for name, value in model.state_dict().items()}
    lfkit.save_checkpoint(args, 7, model, optimizer, scheduler, tmp_path / "given.pkl", average_state_dict=averaged)
    fresh, _, _ = lfkit.build(args, torch.device("cpu"))  # of a run that averages, the weights that it scored
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), averaged.values()))
    args.channels = 8
    with pytest.raises(ValueError, match="is of another architecture"):
        lfkit.build(args, torch.device("cpu"))


def test_a_run_may_train_parts_of_the_network_alone(args, tmp_path):
    args.train_only = "second_look,closer_look"
    model, optimizer, _ = lfkit.build(args, torch.device("cpu"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert learned == {id(p) for name, p in model.named_parameters() if name.startswith(("second_look.", "closer_look."))}
    depth_map = model(torch.rand(1, args.views_num**2, 3, 16, 16))[2]
    depth_map.square().sum().backward()
    optimizer.step()
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"second_look", "closer_look"}
    args.train_only = "second_look,closer_looks"
    with pytest.raises(ValueError, match="--train_only takes parts of the network, with commas between them: got closer_looks; its parts are closer_look, down_low, "):
        lfkit.build(args, torch.device("cpu"))
