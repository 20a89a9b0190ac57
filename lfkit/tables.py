"""Tables of errors: scenes in rows; one model's errors, or several models' beside one another, in columns."""

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from lfkit.disparity import MAX_DISP, STEP, disp_deviation, inside_levels, nearest_peak
from lfkit.files import check_target, write_text
from lfkit.lightfield import Scene
from lfkit.metrics import BENCHMARK_BORDER, compute_bad_pix, compute_mse, compute_nll, compute_peaks, compute_scores, compute_sparsification

STYLES = {".txt": "text", ".md": "markdown", ".csv": "csv", ".tex": "latex"}  # by a file's suffix


def _inside_border(mask: np.ndarray | None, border: int) -> bool:
    return mask is not None and bool(mask[border:mask.shape[0] - border, border:mask.shape[1] - border].any())


def score_scene(scene: Scene, disp: np.ndarray, border: int = BENCHMARK_BORDER, regions: dict[str, np.ndarray] | None = None) -> dict:
    """The benchmark's errors of the background's disparity, overall and inside regions.

    Args:
        scene: with bg_disp; with a mask that covers something inside the border, its inside and outside are two regions.
        disp: 'h w' prediction, in pixels per view step.
        border: pixels left out at each side.
        regions: further ones by name, 'h w' booleans, such as `lfkit.hci.read_hci_masks` gives.

    Returns:
        A table's row: scene, mse_x100 (squared pixels), bad_pix, bad_pix_003, bad_pix_001 (percent), q25 (px / 100), and each with _<region>.
        A region without a pixel inside the border is left out.
    """
    if scene.bg_disp is None:
        raise ValueError(f"{scene.name}: has no true disparity, and can't be scored; give it one, or leave it out of the scenes that are tested")
    parts = {"": None}
    if _inside_border(scene.mask, border):
        parts |= {"_inside": scene.mask} | ({"_outside": ~scene.mask} if _inside_border(~scene.mask, border) else {})
    parts |= {f"_{name}": mask for name, mask in (regions or {}).items() if _inside_border(mask, border)}
    row = {"scene": scene.name}
    for part, mask in parts.items():
        row |= {f"{name}{part}": value for name, value in compute_scores(disp, scene.bg_disp, border, mask).items()}
    return row


def score_layers(scene: Scene, both, background, disp: np.ndarray, max_disp: float = MAX_DISP, step: float = STEP, border: int = BENCHMARK_BORDER) -> dict:
    """What the two distributions are worth, for a table's row.

    Args:
        scene: with bg_disp.
        both, background: depDistT and depDistS, tensors 'd h w'.
        disp: 'h w', the predicted background's disparity.
        max_disp, step: the levels.
        border: pixels left out at each side.

    Returns:
        nll (nats a pixel; where a true disparity lies within the levels) and ause (parts of the mean absolute error) of the background; with both layers' truth, fg_mse_x100 and fg_bad_pix of the nearer
        peak, and inside the mask peak_recall and peak_precision, percent.
    """
    doubt = disp_deviation(background[None], max_disp, step)[0].numpy()
    row = {"ause": compute_sparsification(disp, scene.bg_disp, doubt, border)["area"]}
    if _inside_border(inside_levels(scene.bg_disp, max_disp, step), border):
        row["nll"] = compute_nll(background, scene.bg_disp, max_disp, step, border)
    if scene.two_layers:
        nearer = nearest_peak(both[None], max_disp, step)[0].numpy()
        row |= {"fg_mse_x100": 100 * compute_mse(nearer, scene.fg_disp, border), "fg_bad_pix": compute_bad_pix(nearer, scene.fg_disp, border=border)}
        if _inside_border(scene.mask, border):
            found = compute_peaks(both, scene.fg_disp, scene.bg_disp, max_disp, step, border, scene.mask)
            row |= dict(zip(("peak_recall", "peak_precision"), found))
    return row


COLUMNS = {"mse_x100": "MSEx100", "bad_pix": "BadPix0.07", "bad_pix_003": "BadPix0.03", "bad_pix_001": "BadPix0.01", "q25": "Q25",
           "mse_x100_inside": "MSEx100 in", "bad_pix_inside": "BadPix in", "mse_x100_outside": "MSEx100 out", "bad_pix_outside": "BadPix out",
           "seconds": "seconds"}
LAYER_COLUMNS = {"fg_mse_x100": "fg MSEx100", "fg_bad_pix": "fg BadPix", "peak_recall": "recall", "peak_precision": "precision", "nll": "NLL", "ause": "AUSE"}
REGION_COLUMNS = {f"{key}_{region}": f"{title} {short}" for region, short in (("discontinuities", "dis"), ("fine", "fin"), ("planes", "pla"), ("smooth", "smo"))
                  for key, title in (("mse_x100", "MSEx100"), ("bad_pix", "BadPix"))}
BLOCKS = {"": COLUMNS, "both layers; recall and precision of the two peaks in the mask, percent; NLL in nats, AUSE in parts of the error": LAYER_COLUMNS,
          "the scenes' own masks: discontinuities, fine structures, planes, smooth surfaces": REGION_COLUMNS}
TITLES = COLUMNS | LAYER_COLUMNS | REGION_COLUMNS
UNITS = {"mse_x100": "px²", "bad_pix": "%", "q25": "px / 100", "seconds": "s", "nll": "nats", "peak": "%", "fg_mse_x100": "px²", "fg_bad_pix": "%"}
OF_LEVELS = ("nll", "peak_recall", "peak_precision")  # whose pixels, or whose reach, are those of a model's levels
LARGER_IS_BETTER = ("peak_recall", "peak_precision")


def format_table(rows: list[dict], border: int = BENCHMARK_BORDER) -> str:
    """One model's scores as text, the mean last; "in" and "out" are inside and outside the occluder's mask."""
    mean = {"scene": "mean"} | {key: float(np.mean(values)) for key in TITLES if (values := [row[key] for row in rows if key in row])}
    width = max(len(r["scene"]) for r in [*rows, mean, {"scene": "scene"}])
    lines = [f"background's disparity, border {border}; BadPix in percent, MSE in squared pixels; in and out: of the occluder's mask"]
    for title, columns in BLOCKS.items():
        keys = [key for key in columns if key in mean]
        if not keys:
            continue
        lines += ["", title] if title else []
        lines.append("  ".join(["scene".ljust(width), *(columns[key].rjust(11) for key in keys)]))
        for row in [*rows, *([mean] if len(rows) > 1 else [])]:
            lines.append("  ".join([row["scene"].ljust(width), *((f"{row[key]:11.2f}" if key in row else "-".rjust(11)) for key in keys)]))
    return "\n".join(lines)


# several models

def path_labels(paths: Sequence[str | Path]) -> list[str]:
    """A short name for each path: its end, as long as it takes to tell them apart; the whole where nothing does.

    >>> path_labels(["log/a/model_best.pkl", "log/b/model_best.pkl"])
    ['a/model_best', 'b/model_best']
    >>> path_labels(["log/model_best.pkl", "log/model_best.pt"])
    ['model_best.pkl', 'model_best.pt']
    """
    whole = [Path(path).resolve() for path in paths]
    for parts in ([path.with_suffix("").parts for path in whole], [path.parts for path in whole]):  # files that differ in their suffixes alone keep them
        for length in range(1, max(map(len, parts)) + 1):
            labels = ["/".join(p[-length:]) for p in parts]
            if len(set(labels)) == len(labels):
                return labels
    return [str(path) for path in whole]


def model_labels(paths: Sequence[str | Path]) -> list[str]:
    """The `path_labels` of checkpoints; ValueError when one is named twice."""
    labels = path_labels(paths)
    if len(set(labels)) < len(labels):
        raise ValueError(f"--weights names one checkpoint twice: {', '.join(map(str, paths))}; leave one out")
    return labels


def _describe(key: str) -> str:
    base = next((name for name in UNITS if key.startswith(name)), None)
    return TITLES.get(key, key) + (f" ({UNITS[base]})" if base else "")


def compare(models: dict[str, list[dict]], key: str) -> tuple[list[tuple[str, list[float | None]]], list[list[bool]]]:
    """One error of several models: scenes in rows, the mean last where there are several, and which values are the best of their row.

    Args:
        models: rows of `score_scene` by model, with the same scenes in the same order.
        key: such as mse_x100. The mean is over the scenes that every model has a value for, as different scenes can't be compared.

    Returns:
        [(scene, one value a model or None)]; booleans of the same shape, ties are all best.

    Raises:
        ValueError: when the models were scored on different scenes.
    """
    names = [[row["scene"] for row in rows] for rows in models.values()]
    if any(scenes != names[0] for scenes in names):
        raise ValueError("the models were scored on different scenes; score all of them on the same ones, in the same order")
    table = [(scene, [rows[k].get(key) for rows in models.values()]) for k, scene in enumerate(names[0])]
    whole = [values for _, values in table if None not in values]
    if len(table) > 1:
        table.append(("mean", [float(np.mean(column)) for column in zip(*whole)] if whole else [None] * len(models)))
    pick = max if key in LARGER_IS_BETTER else min
    shown = [[None if v is None else round(v, 2) for v in values] for _, values in table]  # equal in print is a tie
    best = [[v is not None and len(models) > 1 and v == pick(w for w in values if w is not None) for v in values] for values in shown]
    return table, best


def _cells(table: list, best: list, mark: str, gap: str) -> list[list[str]]:
    text = lambda value, is_best: gap if value is None else mark.format(f"{value:.2f}") if is_best else f"{value:.2f}"
    return [[scene, *map(text, values, marks)] for (scene, values), marks in zip(table, best)]


def _as_text(key: str, models: Sequence[str], cells: list) -> str:
    rows = [["scene", *models], *cells]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    line = lambda row: "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
    return "\n".join([_describe(key), *map(line, rows)])


def _as_markdown(key: str, models: Sequence[str], cells: list) -> str:
    lines = [[_describe(key), *models], ["---", *["---:"] * len(models)], *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def _as_latex(key: str, models: Sequence[str], cells: list) -> str:
    safe = lambda text: "".join(f"\\{c}" if c in "_%&#${}" else {"²": "$^2$", "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}", "\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}.get(c, c) for c in text)
    row = lambda words: " & ".join(["{}" * words[0].startswith(("[", "*")) + safe(words[0]), *words[1:]]) + r" \\"  # the line before would take a [ or * for its own
    head = " & ".join([safe(_describe(key)), *map(safe, models)]) + r" \\"
    body = [row(words) for words in cells]
    if len(body) > 1:
        body.insert(-1, r"\hline")
    return "\n".join([rf"\begin{{tabular}}{{l{'r' * len(models)}}}", head, r"\hline", *body, r"\end{tabular}"])


def check_errors(keys: Sequence[str] | None) -> None:
    """ValueError for an error that no scene can have: known before hours of work."""
    if unknown := [key for key in keys or () if key not in TITLES]:
        raise ValueError(f"no error is named {', '.join(unknown)}; there is {', '.join(sorted(TITLES))}")


def check_present(keys: Sequence[str] | None, rows: Iterable[dict]) -> list[str]:
    """The errors, by default those of `COLUMNS` that some row has; ValueError for one that none has."""
    present = {key for row in rows for key in row} - {"scene"}
    keys = list(keys) if keys else [key for key in COLUMNS if key in present]
    if lacking := [key for key in keys if key not in present]:
        raise ValueError(f"no scene has {', '.join(lacking)}; there is {', '.join(sorted(present & TITLES.keys()))}")
    return keys


def format_comparison(models: dict[str, list[dict]], keys: Sequence[str] | None = None, style: str = "text", border: int = BENCHMARK_BORDER) -> str:
    """Tables of several models, one for each error: scenes in rows, models in columns, the best of each row marked, the mean last.

    Args:
        models: rows of `score_scene` by model.
        keys: errors, such as mse_x100; those of `COLUMNS` that some row has by default, with the seconds a scene last.
        style: text (the best with a star), markdown and latex (in bold), csv (one table with the error in the first column, all digits, no mark).
        border: what the scores were made with.

    Raises:
        ValueError: when the style or an error is unknown, or the models were scored on different scenes.
    """
    keys = check_present(keys, chain.from_iterable(models.values()))
    if style not in STYLES.values():
        raise ValueError(f"style must be {', '.join(STYLES.values())}: got {style!r}")
    tables = {key: compare(models, key) for key in keys}
    if style == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["error", "scene", *models])
        for key, (table, _) in tables.items():
            writer.writerows([key, scene, *("" if v is None else repr(float(v)) for v in values)] for scene, values in table)
        return out.getvalue().rstrip("\n")
    note = f"background's disparity, border {border}; in and out: of the occluder's mask"
    make, mark, gap, comment = {"text": (_as_text, "*{}", "-", "{}; * is the best of its row"), "markdown": (_as_markdown, "**{}**", "", "{}"),
                                "latex": (_as_latex, r"\textbf{{{}}}", "--", "% {}")}[style]
    return "\n\n".join([comment.format(note), *(make(key, list(models), _cells(*table, mark, gap)) for key, table in tables.items())])


def write_tables(files: Sequence[str | Path], models: dict[str, list[dict]], keys: Sequence[str] | None = None, border: int = BENCHMARK_BORDER) -> None:
    """Writes the comparison to each file, in the style of its suffix: .txt, .md, .csv or .tex.

    Raises:
        ValueError: when a suffix is another.
    """
    check_table_files(files)
    for file in map(Path, files):
        write_text(file, format_comparison(models, keys, STYLES[file.suffix], border) + "\n")


def check_table_files(files: Sequence[str | Path]) -> None:
    """ValueError when a table's file has a suffix that no style belongs to, or can't be written where it is to lie."""
    for file in map(Path, files):
        check_target(file)
        if file.suffix not in STYLES:
            raise ValueError(f"{file}: a table's file must end in {', '.join(STYLES)}; name another")
