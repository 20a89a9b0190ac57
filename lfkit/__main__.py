"""The command line: python -m lfkit train | validate | predict | export-hci | report | dashboard | convert | synth."""

import argparse
import faulthandler
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from lfkit import distributed
from lfkit.checkpoint import WEIGHTS, load_model
from lfkit.config import SentenceParser, add_training_arguments, check_arguments, get_parser, pooled, whole, whole_or_auto
from lfkit.crops import plan_crops
from lfkit.dashboard import Dashboard, draw_report, run_dashboard
from lfkit.disparity import MAX_DISP, get_disp_distribution, nearest_peak
from lfkit.engine import fit
from lfkit.faults import Fault
from lfkit.files import check_target, existing, write_picture
from lfkit.formats import LAYOUTS
from lfkit.hci import SCENES, check_export, check_submission, export_scene, find_benchmark_scenes, read_hci_masks
from lfkit.inference import AUTO, SYMMETRIES, predict_scene
from lfkit.lightfield import SCENE_LISTS, Scene, as_byte, find_scenes, is_scene, load_scene, read_scene_list, save_scene, write_pfm, write_synthetic
from lfkit.memory import is_out_of_memory
from lfkit.metrics import BENCHMARK_BORDER
from lfkit.model import ENLARGE, ENLARGED, POOLING
from lfkit.receptive import aligned
from lfkit.report import write_report
from lfkit.rundir import write_json
from lfkit.synthetic import synthesize
from lfkit.tables import OF_LEVELS, check_errors, check_present, check_table_files, format_comparison, format_table, model_labels, path_labels, score_layers, score_scene, write_tables
from lfkit.visual import disp_limits, save_disparity

logger = logging.getLogger("lfkit")


def train(args: argparse.Namespace) -> None:
    """Trains, or goes on with a run, alone or as one of torchrun's ranks; draws each epoch in visdom where that is asked for, on one rank."""
    check_arguments(args)
    board = None
    with distributed.group(args.device) as device:
        for report in fit(args, distributed.choose_device(device)):
            if args.if_visdom and distributed.rank() == 0:
                board = board or Dashboard(report["log_path"].name, args.visdom_server, args.visdom_port, report["log_path"] / "visdom.log")
                draw_report(board, report)


def expand_scenes(paths: Sequence[str]) -> list[Path]:
    """The scenes that the paths name: a scene stands for itself, a data directory for its testing_images.txt, or for all of its scenes."""
    scenes = []
    for path in map(Path, paths):
        if is_scene(existing(path)):
            scenes.append(path)
            continue
        if path.is_file():
            raise ValueError(f"{path}: is neither a scene nor a data directory; name one of these")
        scenes += (read_scene_list(path, SCENE_LISTS[0]) if (path / SCENE_LISTS[0]).exists() else find_scenes(path)).values()
    scenes = list({path.resolve(): path for path in scenes}.values())  # one that is named twice counts once
    if not scenes:
        raise ValueError(f"{', '.join(paths)}: no scene, {SCENE_LISTS[0]} is empty; write the names of scenes into it, one a line")
    return scenes


def run_model(scene: Scene, model, args: argparse.Namespace) -> tuple:
    """(depDistT, depDistS, depth_map) of a scene's middle views, and the seconds it took."""
    start = time.perf_counter()
    outputs = predict_scene(scene.middle(model.views_num).lf, model, args.chosen_device, args.test_length, args.shave, args.mod, args.symmetries)
    return outputs, time.perf_counter() - start


def perfect_row(path: Path, models: Sequence, args: argparse.Namespace) -> dict:
    """The row of a scene that is told rightly; ValueError for one that has no truth, nothing inside the border, too few views for a model, crops that can't cover it, or a damaged mask of a region."""
    scene = load_scene(path, args.layout, args.picture_views)
    if scene.bg_disp is None:
        raise ValueError(f"{path}: has no true disparity (bg_disp.npy, gt_disp_lowres.pfm or bgDisparity/) to validate against; use predict")
    for model in models:
        lf = scene.middle(model.views_num).lf
        if AUTO not in (args.test_length, args.shave):
            plan_crops(lf.shape[2:4], args.test_length, args.shave, aligned(args.mod, model))
    truth = get_disp_distribution(torch.from_numpy(scene.bg_disp)[None], models[0].max_disp, models[0].step)[0]
    return row_of(path, scene, ((truth, truth, torch.from_numpy(scene.bg_disp)), 0.0), models[0], args)


def row_of(path: Path, scene: Scene, found: tuple, model, args: argparse.Namespace) -> dict:
    """A table's row: the errors of what `run_model` found."""
    (both, background, depth_map), seconds = found
    disp = depth_map.numpy()
    layers = score_layers(scene, both, background, disp, model.max_disp, model.step, args.border)
    layers = layers if args.alike else {name: value for name, value in layers.items() if name not in OF_LEVELS}
    return {**score_scene(scene, disp, args.border, read_hci_masks(path, disp.shape)), **layers, "seconds": seconds}


def validate(args: argparse.Namespace) -> None:
    """Prints and writes a table of errors; of several models side by side."""
    check_table_files(args.table)
    check_errors(args.errors)
    if args.json:
        check_target(Path(args.json))
        if Path(args.json).resolve() in [Path(file).resolve() for file in args.table]:
            raise ValueError(f"{args.json}: --json and --table name one file; name two")
    paths, labels = expand_scenes(args.paths), model_labels(args.weights)
    networks = [load_model(weights, args.chosen_device, args.enlarge)[0] for weights in args.weights]
    args.alike = len({(network.max_disp, network.step) for network in networks}) == 1
    if not args.alike:
        logger.warning("the models have other levels: their %s can't be compared, and are left out", ", ".join(OF_LEVELS))
    rows = [perfect_row(path, networks, args) for path in paths]  # all that is wrong shows before hours of work
    check_present(args.errors, rows)
    names = [row["scene"] for row in rows]
    models = {label: [] for label in labels}
    try:
        for label, model in zip(labels, networks):
            for path in tqdm(paths, desc=f"scenes, {label}", leave=False):
                scene = load_scene(path, args.layout, args.picture_views)
                models[label].append(row_of(path, scene, run_model(scene, model, args), model, args))
    except BaseException:
        for label, rows in models.items():
            if rows:
                print(f"cut short; what was done of {label}:\n{format_table(rows, args.border)}", flush=True)
        raise
    if len(set(names)) < len(names):
        for rows in models.values():
            for row, label in zip(rows, path_labels(paths)):
                row["scene"] = label
    rows = next(iter(models.values()))
    alone = len(models) == 1 and not args.errors
    print(format_table(rows, args.border) if alone else format_comparison(models, args.errors, "text", args.border), flush=True)  # first: a file may fail
    if args.json:
        what = [{"weights": str(weights), "border": args.border, "enlarge": args.enlarge, "symmetries": args.symmetries, "scenes": rows} for weights, rows in zip(args.weights, models.values())]
        write_json(Path(args.json), what[0] if len(what) == 1 else what)
    write_tables(args.table, models, args.errors, args.border)


def export_hci(args: argparse.Namespace) -> None:
    """Writes a submission to the HCI benchmark, and says what it lacks."""
    scenes = find_benchmark_scenes(args.paths)
    model, _ = load_model(args.weights, args.chosen_device, args.enlarge)
    def predict_timed(scene: Scene) -> tuple:
        (_, _, depth_map), seconds = run_model(scene, model, args)
        return depth_map.numpy(), seconds
    for path in scenes.values():
        check_export(args.out, load_scene(path, truth=False))
    for path in tqdm(scenes.values(), desc="scenes", leave=False):
        export_scene(args.out, load_scene(path, truth=False), predict_timed)
    faults = check_submission(args.out)
    print(f"{args.out}: {len(SCENES) - len(faults)} of the benchmark's {len(SCENES)} scenes" + ("" if faults else "; the submission is whole"))
    for name, fault in faults.items():
        print(f"  missing {name}: {fault}")


def predict(args: argparse.Namespace) -> None:
    """Writes the disparity of both layers of a scene."""
    scene, out = load_scene(args.path, args.layout, args.picture_views, truth=False), Path(args.out)
    scene.name = args.name or scene.name
    files = {part: out / f"{scene.name}_{part}" for part in ("bg_disp.pfm", "bg_disp.png", "centre.png", "fg_disp.pfm", "fg_disp.png")}
    for file in files.values():
        check_target(file)
    model, _ = load_model(args.weights, args.chosen_device, args.enlarge)
    (both, _, depth_map), seconds = run_model(scene, model, args)
    fg_disp = nearest_peak(both[None], model.max_disp, model.step)[0].numpy()
    disps = {"bg_disp": depth_map.numpy(), "fg_disp": fg_disp}
    out.mkdir(parents=True, exist_ok=True)
    limits = disp_limits(*disps.values())
    for name, disp in disps.items():
        write_pfm(files[f"{name}.pfm"], disp)
        save_disparity(files[f"{name}.png"], disp, limits)
    write_picture(files["centre.png"], as_byte(scene.centre))
    print(f"{scene.name}: {scene.views_num} x {scene.views_num} views of {scene.lf.shape[2]} x {scene.lf.shape[3]} pixels, {disps['bg_disp'].min():.2f} ... {disps['bg_disp'].max():.2f} px per view step behind, {seconds:.1f} s; "
          f"in {out}: {', '.join(file.name for file in files.values())}")


def convert(args: argparse.Namespace) -> None:
    """Writes a scene anew, as one .npy file, in the note's layout or as an HCI folder."""
    src, dst = Path(args.src), Path(args.dst)
    to = args.to or ("npy" if dst.suffix == ".npy" else None)
    if to is None:
        raise ValueError(f"{dst}: does not end in .npy; say --to note or --to hci for a data directory, or name an .npy file")
    if (to == "npy") != (dst.suffix == ".npy"):
        raise ValueError(f"{dst}: --to {to} writes {'a file that ends in .npy' if to == 'npy' else 'into a data directory, not an .npy file'}; name another DST")
    scene = load_scene(src, args.layout, args.picture_views)
    scene.name = args.name or scene.name
    target = {"npy": dst, "note": dst / "LFs" / f"{scene.name}.npy", "hci": dst / scene.name}[to]
    if target.exists() and target.samefile(src):
        raise ValueError(f"{target}: is the scene that is read; name another DST")
    check_target(target / "input_Cam000.png" if to == "hci" else target)
    save_scene(scene, dst, to)
    truth = [part for part in ("bg_disp", "fg_disp", "mask", "gt_data") if getattr(scene, part) is not None]
    told = f"with {', '.join(truth)}" if truth and to != "npy" else f"without its {', '.join(truth)}, which --to note or hci would keep" if truth else "without truth"
    print(f"{target}: {scene.views_num} x {scene.views_num} views of {scene.lf.shape[2]} x {scene.lf.shape[3]} pixels, {told}")


def synth(args: argparse.Namespace) -> None:
    """Writes procedural scenes."""
    check_target(Path(args.out) / SCENE_LISTS[0])
    with tqdm(total=args.scenes, desc="scenes", leave=False) as bar:
        def render(seed: int, size: int) -> Scene:
            scene = synthesize(seed, size, args.views_num, args.max_disp)
            bar.update()
            return scene
        names = write_synthetic(args.out, args.scenes, args.size, args.seed, render)
    others, usual = len(find_scenes(args.out)) - len(names), get_parser([])
    wanted = {"patch_size": min(args.size, usual.patch_size), "views_num": args.views_num, "max_disp": max(math.ceil(args.max_disp), usual.max_disp)}
    flags = "".join(f" --{name} {value:g}" for name, value in wanted.items() if value != getattr(usual, name))
    print(f"{len(names)} scenes in {args.out}{f', beside {others} from before, listed as they were' if others else ''}; train on them with `python -m lfkit train --data_dir {args.out}{flags}`")


COMMANDS = {"train": train, "validate": validate, "predict": predict, "export-hci": export_hci,
            "report": lambda args: print(write_report(args.run, args.out)), "dashboard": lambda args: run_dashboard(args.port, args.env_path, args.log_dir),
            "convert": convert, "synth": synth}


def plain_name(text: str) -> str:
    """A name that is no path."""
    if text in ("", "..") or text != Path(text).name:
        raise argparse.ArgumentTypeError(f"expected a name without folders: got {text!r}")
    return text


def make_parser() -> SentenceParser:
    """The parser of the command line."""
    named, picture, network = (SentenceParser(add_help=False) for _ in range(3))  # what several commands take
    named.add_argument("--name", type=plain_name, default=None, help="of the scene, in what is written; its folder's or file's by default")
    picture.add_argument("--layout", default=None, choices=LAYOUTS, help="of one picture of all views; found where not told")
    picture.add_argument("--picture_views", type=whole(3), default=None, metavar="N", help="views a side in one picture; found where not told")
    network.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0 ...")
    network.add_argument("--test_length", type=whole_or_auto(1), default="auto", help="longest side of a crop, pixels; auto: by the memory")
    network.add_argument("--shave", type=whole_or_auto(0), default="auto", help="pixels of a crop's inner sides not trusted; auto: the network's reach")
    network.add_argument("--mod", type=pooled, default=POOLING, help=f"crops start at multiples of it, itself one of {POOLING}, and of {2 * POOLING} with --enlarge 1.5")
    network.add_argument("--enlarge", type=float, choices=ENLARGED, default=ENLARGE, help="by how much views are enlarged for the closer looks; 1 takes half the time and is less precise")
    network.add_argument("--symmetries", type=int, choices=SYMMETRIES, default=1, help="mean over so many ways to turn and mirror the light field, in as many times the time")
    weights = {"default": str(WEIGHTS), "metavar": "FILE", "help": "checkpoint; the shipped weights by default"}

    parser = SentenceParser(prog="lfkit", description="Sees the disparity behind occluders in light fields.", fromfile_prefix_chars="@")
    commands = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    command = commands.add_parser("train", help="train a network")
    add_training_arguments(command)

    command = commands.add_parser("validate", help="print the errors on scenes with truth", parents=[network, picture])
    command.add_argument("--weights", nargs="+", default=[str(WEIGHTS)], metavar="FILE", help="checkpoints, after the scenes; several stand side by side; the shipped weights by default")
    command.add_argument("paths", nargs="+", metavar="PATH", help="scenes, or data directories (their testing_images.txt)")
    command.add_argument("--border", type=whole(0), default=BENCHMARK_BORDER, help="pixels left out at each side")
    command.add_argument("--json", default=None, metavar="FILE", help="also write all scores there")
    command.add_argument("--table", nargs="+", default=[], metavar="FILE", help="also write the table there, as the suffix says: .txt, .md, .csv, .tex")
    command.add_argument("--errors", nargs="+", default=None, metavar="NAME", help="only these, such as mse_x100 bad_pix_inside; one table each")

    command = commands.add_parser("predict", help="write the disparities of a scene", parents=[network, named, picture])
    command.add_argument("--weights", **weights)
    command.add_argument("path", metavar="PATH", help="a folder of views, one picture of all views, or an .npy light field")
    command.add_argument("--out", required=True, metavar="DIR", help="where the files go")

    command = commands.add_parser("export-hci", help="write a submission to the HCI benchmark", parents=[network])
    command.add_argument("--weights", **weights)
    command.add_argument("paths", nargs="+", metavar="PATH", help="the benchmark's scenes, or folders that hold them")
    command.add_argument("--out", required=True, metavar="DIR", help="the submission's folder")

    command = commands.add_parser("report", help="write one HTML page of a run")
    command.add_argument("run", metavar="RUN", help="the run's directory, under --log_dir")
    command.add_argument("--out", default=None, metavar="FILE", help="the page; report.html in the run's directory by default")

    command = commands.add_parser("dashboard", help="serve visdom on loopback")
    command.add_argument("--port", type=whole(1, 65535), default=9878, help="where it listens, on 127.0.0.1")
    command.add_argument("--env_path", default="runs/visdom", metavar="DIR", help="where its windows are kept, and its page")
    command.add_argument("--log_dir", default="./log", metavar="DIR", help="whose runs' recordings are replayed into it")

    command = commands.add_parser("convert", help="write a scene anew", parents=[named, picture])
    command.add_argument("src", metavar="SRC", help="a folder of views, one picture of all views, or an .npy light field")
    command.add_argument("dst", metavar="DST", help="the .npy file, or the data directory, to write")
    command.add_argument("--to", default=None, choices=("npy", "note", "hci"), help="one .npy of the views, the note's layout, or HCI's; npy where DST ends in .npy")

    command = commands.add_parser("synth", help="write procedural two-layer scenes")
    command.add_argument("--out", required=True, metavar="DIR", help="data directory")
    command.add_argument("--scenes", type=whole(3), default=32, help="how many; one in eight is listed for testing, up to one in 32 for what training validates")
    command.add_argument("--size", type=whole(16), default=128, help="side of the views, in pixels")
    command.add_argument("--seed", type=whole(0, 2**62), default=0, help="of the first scene")
    command.add_argument("--views_num", type=int, default=9, help="views a side, odd")
    command.add_argument("--max_disp", type=float, default=MAX_DISP, help="largest disparity, in pixels per view step, at least 2")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 when all went well, with one sentence 2 for a user's mistake and 1 for what befell a run."""
    args = argparse.Namespace(command="")
    try:
        args = make_parser().parse_args(sys.argv[1:] if argv is None else list(argv))
        if args.command in ("validate", "predict", "export-hci"):
            args.chosen_device = distributed.choose_device(args.device)
        COMMANDS[args.command](args)
    except (ValueError, OSError, MemoryError, Fault) as error:
        system = isinstance(error, OSError) and error.filename
        way_out = "; correct its rights, or name another place" if isinstance(error, PermissionError) else ""
        print(f"lfkit: {f'{error.filename}: {error.strerror}{way_out}' if system else error or 'out of memory'}\n", end="", file=sys.stderr)  # in one piece: ranks share a terminal
        return 1 if isinstance(error, (MemoryError, Fault)) else 2
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(f"lfkit: out of memory ({str(error).splitlines()[0]}); try less of what makes it large, such as --size, --channels, --max_disp or --views_num", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"lfkit: interrupted{'; go on with --resume auto' if args.command == 'train' else ''}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    faulthandler.enable()  # a mapped scene that vanishes from a network drive ends the process with a signal: say where
    sys.exit(main())
