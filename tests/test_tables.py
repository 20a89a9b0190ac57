import csv

import numpy as np
import pytest
import torch

import lfkit
from lfkit import format_table, score_scene
from lfkit.tables import STYLES, check_errors, compare, format_comparison, model_labels, score_layers, write_tables


def test_inside_and_outside_the_mask_by_hand():
    scene = lfkit.Scene("s", np.zeros((3, 3, 8, 8, 3), np.uint8), bg_disp=np.zeros((8, 8)), mask=np.eye(8, dtype=bool))
    disp = np.where(np.eye(8, dtype=bool), 0.5, 0.01)
    row = score_scene(scene, disp, border=2)
    assert row["mse_x100_inside"] == pytest.approx(25) and row["bad_pix_inside"] == 100 and row["bad_pix_outside"] == 0
    assert row["bad_pix"] == 25 and row["mse_x100"] == pytest.approx(100 * (4 * 0.25 + 12 * 0.0001) / 16)
    table = format_table([row, {"scene": "t", "mse_x100": 5.0, "bad_pix": 75.0}], 2).splitlines()
    assert table[-1].split()[0] == "mean" and table[-1].split()[2] == "50.00" and table[-2].split()[3] == "-"


MODELS = {"a_1": [{"scene": "s_1", "bad_pix": 10.0, "seconds": 1.0}, {"scene": "t", "bad_pix": 30.0, "seconds": 3.0}, {"scene": "u"}],
          "b": [{"scene": "s_1", "bad_pix": 20.0, "seconds": 1.0}, {"scene": "t", "bad_pix": 15.0, "seconds": 2.0}, {"scene": "u", "bad_pix": 1.0}]}


def test_scenes_in_rows_models_in_columns_the_best_marked_the_mean_last():
    assert format_comparison(MODELS, ["bad_pix"], "text", 4).splitlines() == [
        "background's disparity, border 4; in and out: of the occluder's mask; * is the best of its row", "",
        "BadPix0.07 (%)",
        "scene     a_1       b",
        "s_1    *10.00   20.00",
        "t       30.00  *15.00",
        "u           -   *1.00",
        "mean    20.00  *17.50"]  # over the two scenes that both have


def test_markdown_and_latex_in_bold():
    lines = format_comparison(MODELS, ["bad_pix", "seconds"], "markdown").splitlines()
    assert lines[2:5] == ["| BadPix0.07 (%) | a_1 | b |", "| --- | ---: | ---: |", "| s_1 | **10.00** | 20.00 |"]
    assert "| s_1 | **1.00** | **1.00** |" in lines and "| mean | 2.00 | **1.50** |" in lines  # ties are both best
    latex = format_comparison(MODELS, ["bad_pix"], "latex").splitlines()
    assert latex[0].startswith("% ") and latex[2:] == [
        r"\begin{tabular}{lrr}", r"BadPix0.07 (\%) & a\_1 & b \\", r"\hline", r"s\_1 & \textbf{10.00} & 20.00 \\", r"t & 30.00 & \textbf{15.00} \\",
        r"u & -- & \textbf{1.00} \\", r"\hline", r"mean & 20.00 & \textbf{17.50} \\", r"\end{tabular}"]


def test_a_name_is_no_latex():
    rows = [{"scene": r"a^b~c{d}$e\f", "bad_pix": 1.0}]
    assert r"a\^{}b\~{}c\{d\}\$e\textbackslash{}f & 1.00" in format_comparison({"m": rows}, style="latex")
    table = format_comparison({"m": [{"scene": name, "bad_pix": 1.0} for name in ("a<b>|", "[1] fence", "*star")]}, style="latex").splitlines()
    assert r"a\textless{}b\textgreater{}\textbar{} & 1.00 \\" in table
    assert r"{}[1] fence & 1.00 \\" in table and r"{}*star & 1.00 \\" in table  # after \\ a [ would be a length, a * a mark


def test_a_name_is_no_end_of_a_markdown_cell():
    assert "| a\\|b | **1.00** | 2.00 |" in format_comparison({"m": [{"scene": "a|b", "q25": 1.0}], "n": [{"scene": "a|b", "q25": 2.0}]}, ["q25"], "markdown")


def test_csv_is_one_table():
    rows = list(csv.reader(format_comparison(MODELS, style="csv").splitlines()))
    assert rows[0] == ["error", "scene", "a_1", "b"] and rows[1] == ["bad_pix", "s_1", "10.0", "20.0"] and rows[3] == ["bad_pix", "u", "", "1.0"]
    assert rows[-1] == ["seconds", "mean", "2.0", "1.5"] and len(rows) == 9 and {len(row) for row in rows} == {4}


def test_more_is_better_for_peaks():
    _, best = compare({"a": [{"scene": "s", "peak_recall": 10.0}], "b": [{"scene": "s", "peak_recall": 20.0}]}, "peak_recall")
    assert best == [[False, True]]


def test_files_by_their_suffix(tmp_path):
    files = [tmp_path / "deep" / f"t{suffix}" for suffix in STYLES]
    write_tables(files, MODELS, ["bad_pix"], 4)
    assert [file.read_text() for file in files] == [format_comparison(MODELS, ["bad_pix"], style, 4) + "\n" for style in STYLES.values()]
    with pytest.raises(ValueError, match=r"t.xls: a table's file must end in .txt, .md, .csv, .tex; name another"):
        write_tables([tmp_path / "t.xls"], MODELS)


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="scored on different scenes"):
        compare({"a": [{"scene": "s"}], "b": [{"scene": "t"}]}, "bad_pix")
    with pytest.raises(ValueError, match="no scene has mse; there is bad_pix, seconds"):
        format_comparison(MODELS, ["mse"])
    with pytest.raises(ValueError, match="no error is named mse; there is ause, bad_pix,"):
        check_errors(["bad_pix", "mse"])
    with pytest.raises(ValueError, match="no scene has nll; there is bad_pix, mse_x100$"):  # none that would be refused
        format_comparison({"a": [{"scene": "s", "mse_x100": 1.0, "bad_pix": 2.0, "q25_inside": 3.0}]}, ["nll"])


def test_a_scene_without_truth_is_named():
    scene = lfkit.Scene("s", np.zeros((3, 3, 40, 40, 3), np.uint8))
    with pytest.raises(ValueError, match="s: has no true disparity, and can't be scored; give it one, or leave it out"):
        score_scene(scene, np.zeros((40, 40)))
    with pytest.raises(ValueError, match="style must be text, markdown, csv, latex: got 'html'"):
        format_comparison(MODELS, style="html")
    with pytest.raises(ValueError, match="names one checkpoint twice: a.pkl, a.pkl"):
        model_labels(["a.pkl", "a.pkl"])
    assert model_labels(["x/model_best.pkl", "x/deoccnet.pkl"]) == ["model_best", "deoccnet"]


def test_a_regions_errors_are_those_of_its_pixels_alone():
    scene = lfkit.Scene("s", np.zeros((3, 3, 8, 8, 3), np.uint8), bg_disp=np.zeros((8, 8)))
    planes = np.zeros((8, 8), bool)
    planes[3, 3:5] = True
    disp = np.where(planes, 0.2, 0.0)
    row = score_scene(scene, disp, 2, {"planes": planes, "fine": ~np.ones((8, 8), bool)})
    assert row["mse_x100_planes"] == pytest.approx(4) and row["q25_planes"] == pytest.approx(20) and row["bad_pix"] == pytest.approx(12.5)
    assert "mse_x100_fine" not in row
    assert "BadPix pla" in format_table([row])


def test_the_layers_of_perfect_distributions(scene):
    fg, bg = (torch.from_numpy(disp)[None] for disp in (scene.fg_disp, scene.bg_disp))
    single = lfkit.get_disp_distribution(bg)
    both = (lfkit.get_disp_distribution(fg) + single) / 2
    row = score_layers(scene, both[0], single[0], scene.bg_disp, border=4)
    assert row["ause"] == 0 and 0 <= row["nll"] < np.log(2) + 1e-6  # a truth half way between two levels has a density of 1/2, the least there is
    assert row["peak_recall"] > 70 and row["peak_precision"] > 70   # layers less than two levels apart melt into one
    assert row["fg_bad_pix"] < 50
    assert "recall" in format_table([row | {"scene": "s"}]) and "peak_recall" not in score_layers(lfkit.Scene("s", scene.lf, scene.bg_disp), both[0], single[0], scene.bg_disp)


@pytest.mark.parametrize("mass, error", [(0.3, 0.0), (0.2, 300.0)])
def test_a_nearer_layer_counts_where_it_is_likelier_than_not(mass, error):
    """An occluder at 2 before a background at -1, of which depDistT gives the occluder less than a quarter or more: a sure one has a half."""
    disp = lambda value: torch.full((1, 6, 6), value)
    both = mass * lfkit.get_disp_distribution(disp(2.0)) + (1 - mass) * lfkit.get_disp_distribution(disp(-1.0))
    scene = lfkit.Scene("s", np.zeros((3, 3, 6, 6, 3), np.uint8), np.full((6, 6), -1.0), np.full((6, 6), 2.0))
    row = score_layers(scene, both[0], lfkit.get_disp_distribution(disp(-1.0))[0], scene.bg_disp, border=1)
    assert row["fg_mse_x100"] == pytest.approx(3 * error, abs=1e-3) and row["fg_bad_pix"] == (100 if error else 0)
