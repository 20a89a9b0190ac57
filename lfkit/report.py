"""One HTML page of a run, with everything in it: arguments, curves, the table of its last validation, pictures."""

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lfkit.checkpoint import read_checkpoint
from lfkit.files import check_target, write_text
from lfkit.visual import plot_curves

PICTURES = {"train": "centre view", "pred": "predicted background", "gt": "true background"}
STYLE = ("body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222} table{border-collapse:collapse;margin:1em 0} "
         "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:right} td:first-child,th:first-child{text-align:left} img{max-width:100%} "
         "figure{display:inline-block;margin:.3em} figure img{width:20em;image-rendering:pixelated} figcaption{font-size:.85em}")


def newest_checkpoint(run: Path) -> dict:
    """The checkpoint after the last epoch, or of it that with the later validation; the newest file, by its time, which a copy may not keep, where no epoch is trained yet."""
    files = sorted([*run.glob("model_state/model_*.pkl"), *run.glob("model_best.pkl")], key=lambda file: file.stat().st_mtime_ns)
    if not files:
        raise FileNotFoundError(f"{run}: no run in it, it has no checkpoint; name a directory under --log_dir")
    last = run / "model_state" / "model_last.pkl"
    checkpoint = read_checkpoint(last if last.exists() else files[-1])
    validated = last.with_name(f"model_{checkpoint['epoch']}.pkl")  # before the next epoch, or at the end
    found = [checkpoint, *([read_checkpoint(validated)] if validated.exists() else [])]
    return max(found, key=lambda one: (one.get("tested") or {"epoch": -1})["epoch"])


def _read_starts(file: Path) -> list[dict]:
    """Where and with what a run was started, one dict a start."""
    try:
        starts = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
            raise ValueError("no list of starts")
        return starts
    except ValueError as error:
        raise ValueError(f"{file}: is not the JSON of a run's starts ({error}); take it away, and the report says nothing of where the run was started") from error


def _picture(data: bytes, caption: str = "") -> str:
    image = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>" if caption else image


def _drawn(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _table(head: list[str], rows: list[list]) -> str:
    cell = lambda tag, value: f"<{tag}>{html.escape(f'{value:.2f}' if isinstance(value, float) else str(value))}</{tag}>"
    lines = ["".join(cell("th", word) for word in head)] * bool(head) + ["".join(cell("td", value) for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _validation(tested: dict | None) -> str:
    if not tested:
        return "<p>Not validated yet.</p>"
    rows = [[name, 100 * score["mse"], score["bad_pix"]] for name, score in tested["scenes"].items()]
    if len(rows) > 1:
        rows.append(["mean", 100 * tested["mse"], tested["bad_pix"]])
    return f"<p>After {tested['epoch']} epochs, border 11, less in scenes under 23 pixels.</p>" + _table(["scene", "MSEx100 (px²)", "BadPix 0.07 (%)"], rows)


def _pictures(run: Path) -> str:
    """Those of the newest validation that kept some."""
    folders = [folder for folder in (run / "validation").glob("epoch*") if folder.name.removeprefix("epoch").isdigit()]
    folders.sort(key=lambda folder: int(folder.name.removeprefix("epoch")))
    if not folders:
        return "<p>No validation kept pictures; --save_image_every says which do.</p>"
    parts = [f"<p>After {folders[-1].name.removeprefix('epoch')} epochs; both disparities in one colour scale, the range of the truth.</p>"]
    for file in sorted(folders[-1].glob("*_pred.png")):
        scene = file.name.removesuffix("_pred.png")
        files = {what: folders[-1] / f"{scene}_{kind}.png" for kind, what in PICTURES.items()}
        parts.append("<div>" + "".join(_picture(path.read_bytes(), f"{scene}: {what}") for what, path in files.items() if path.exists()) + "</div>")
    return "".join(parts)


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Writes one HTML page of a run that needs no other file and no network.

    Args:
        run: the run's directory, under --log_dir.
        out: the page; report.html in the run's directory by default.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: when there is no run.
        ValueError: when its newest checkpoint or environment.json is damaged, or the page can't be written there.
    """
    run = Path(run)
    out = Path(out) if out else run / "report.html"
    check_target(out)
    checkpoint = newest_checkpoint(run)
    curves = checkpoint.get("curves", {})
    epochs = checkpoint["epoch"]
    starts = _read_starts(run / "environment.json")
    names = list(dict.fromkeys(name for start in starts for name in start))
    sections = {"Curves": _picture(_drawn(plot_curves(curves, epochs, checkpoint.get("tested")))) if curves.get("train_loss") else "<p>No epoch is trained yet.</p>",
                "Validation": _validation(checkpoint.get("tested")), "Pictures": _pictures(run),
                "Arguments": _table([], [[f"--{name}", str(value)] for name, value in sorted(checkpoint["args"].items())])}
    if starts:
        sections["Started"] = _table(["", *(f"start {k + 1}" for k in range(len(starts)))], [[name, *(start.get(name, "") for start in starts)] for name in names])
    title = html.escape(run.resolve().name)
    best = checkpoint.get("best_mse", float("inf"))
    told = f"{epochs} epochs trained" + (f", best MSEx100 {100 * best:.2f} px² of the background's disparity" if np.isfinite(best) else "")
    body = "".join(f"<h2>{name}</h2>{content}" for name, content in sections.items())
    write_text(out, f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
                    f"<body><h1>{title}</h1><p>{told}.</p>{body}</body></html>\n")
    return out
