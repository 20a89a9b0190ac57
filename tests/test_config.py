import shlex
import subprocess
import sys

import pytest

import lfkit

NOTE_DEFAULTS = {
    "patch_size": 64, "batch_size": 1, "data_dir": "./Dataset/", "model_name": "DeoccNet", "model_msg": "NoTagModel", "model_save_dir": None,
    "channels": 32, "views_num": 9, "max_disp": 4, "step": 1, "device": "auto", "epoch": 10000, "lr": 1e-4, "decay_step": 200, "gamma": 0.1,
    "if_visdom": 0, "if_debug": 1, "shave": 16, "mod": 8, "val_every": 10, "save_image_every": 50, "test_length": 96, "visdom_port": 9878,
    "log_dir": "./log", "current_iter": 0, "decay_unit": "epoch", "crops_per_scene": 1, "num_workers": 0, "schedule": "step", "warm_up": 0,
    "precision": "float32", "accumulate": 1, "clip": 0, "average": 0, "keep": 5}
RUN_LINE = ("--patch_size 64 --batch_size 5 --data_dir ./Dataset/DLFD/ --channels 64 --views_num 9 --max_disp 4 --step 1 --device cuda:0 "
            "--current_iter 0 --lr 1e-3 --decay_step 200 --gamma 0.1 --shave 16 --mod 8 --if_visdom 1 --if_debug 0 --model_name AOR --model_msg DE")


@pytest.mark.parametrize("name", NOTE_DEFAULTS)
def test_default(name):
    assert getattr(lfkit.get_parser(), name) == NOTE_DEFAULTS[name]


def test_run_line_means_what_it_says():
    args = lfkit.get_parser(shlex.split(RUN_LINE))
    expected = {"patch_size": 64, "batch_size": 5, "data_dir": "./Dataset/DLFD/", "channels": 64, "device": "cuda:0", "lr": 1e-3, "if_visdom": 1,
                "if_debug": 0, "model_name": "AOR", "model_msg": "DE", "current_iter": 0, "decay_step": 200, "gamma": 0.1}
    assert {name: getattr(args, name) for name in expected} == expected


def test_step_is_a_float():
    assert lfkit.get_parser(["--step", "0.5"]).step == 0.5


def test_parsing_ignores_the_process_arguments():
    code = "import sys; sys.argv = ['kernel', '-f', 'k.json']; import lfkit; print(lfkit.get_parser().epoch)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "10000"


@pytest.mark.parametrize("argv, sentence", [
    (["--views_num", "8"], "views_num must be odd and at least 3, so that there is a centre view: got 8; use 7"),
    (["--max_disp", "3", "--step", "2"], "max_disp must be a whole multiple of step: got max_disp 3 and step 2; try --max_disp 4"),
    (["--patch_sise", "3"], "unrecognized arguments: --patch_sise 3"),
    (["--seed", str(2**63)], f"must be a whole number from 0 to {2**62}: got {2**63}"),
    (["--mod", "12"], "--mod: must be a multiple of 8 from 8: got 12"),
    (["--batch_size", "0"], "must be a whole number from 1: got 0"),
    (["--patch_size", "1"], "must be a whole number from 2: got 1"),
    (["--model_msg", "a/b"], "--model_msg is part of a folder's name, and can't have / or .* in it: got 'a/b'; name the place by --log_dir"),
    (["--clip=-1"], "--clip: must be a number from 0: got -1"),
    (["--clip", "nan"], "--clip: must be a number from 0: got nan"),
    (["--loss3_weight", "nan"], "--loss3_weight: must be a number from 0: got nan"),
    (["--loss1_weight", "inf"], "--loss1_weight: must be a number from 0: got inf"),
    (["--hidden_weight=-1"], "--hidden_weight: must be a number from 0: got -1"),
    (["--average", "1"], "--average: must be a number from 0 and below 1: got 1"),
    (["--schedule", "cosine", "--warm_up", "9", "--epoch", "9"],
     "must rise before it falls: got --warm_up 9 of --epoch 9; use less warm-up, or --decay_unit batch"),
])
def test_bad_flags(argv, sentence):
    with pytest.raises(ValueError, match=sentence.replace("--", "-.")):
        lfkit.get_parser(argv)


def test_a_device_that_is_not_there_names_those_that_are():
    with pytest.raises(ValueError, match=r"no device 'cuda:99' on this machine: there is cpu.*use --device auto"):
        lfkit.choose_device("cuda:99")


def test_devices():
    assert lfkit.choose_device("cpu").type == "cpu"
    assert lfkit.choose_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("flag", ["--embed", "--jolt"])
@pytest.mark.parametrize("text", ["1.5", "-0.1"])
def test_a_share_lies_between_0_and_1(text, flag):
    assert lfkit.get_parser(["--embed", "0.25"]).embed == 0.25 and lfkit.get_parser().embed == 1.0 and lfkit.get_parser().mask_dir is None
    with pytest.raises(ValueError, match=f"{flag}: must be a number from 0 to 1: got {text}"):
        lfkit.get_parser([f"{flag}={text}"])


def test_crops_of_validation_may_be_chosen_automatically():
    args = lfkit.get_parser(["--shave", "auto", "--test_length", "auto"])
    assert args.shave == args.test_length == "auto" and lfkit.get_parser(["--shave", "9"]).shave == 9
    with pytest.raises(ValueError, match="--shave.*must be a whole number from 0: got -1"):
        lfkit.get_parser(["--shave", "-1"])
    with pytest.raises(ValueError, match="--shave: invalid whole number or auto value: 'car'"):
        lfkit.get_parser(["--shave", "car"])


def test_a_profile_that_is_not_there_names_those_that_are():
    with pytest.raises(ValueError, match="no profile is named 'foo', expected ci, small, full; set LFKIT_PROFILE to one of them"):
        lfkit.PROFILES["foo"]
    assert set(lfkit.PROFILES) == {"ci", "small", "full"} and lfkit.PROFILES["small"]["scenes"] == 34
