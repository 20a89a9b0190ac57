"""The training loop: validate, train, keep what resuming needs."""

import logging
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lfkit.checkpoint import find_checkpoint, load_checkpoint, random_states, restore_random_states, save_checkpoint
from lfkit.dataset import DatasetLF, SyntheticLF, open_training, validation_scenes
from lfkit.devices import choose_device
from lfkit.inference import predict_scene
from lfkit.lightfield import as_byte
from lfkit.losses import CRITERIA, WEIGHT_NAMES, training_loss
from lfkit.metrics import BORDER, compute_bad_pix, compute_mse
from lfkit.model import DeoccNet, weights_init_xavier
from lfkit.visual import save_validation_result

logger = logging.getLogger("lfkit")
LOG_FORMAT = "%(asctime)s - %(levelname)s - %(message)s"
QUIET_SECONDS = 3  # progress bars wait so long before they show


def setup_logging(log_path: Path, file_name: str) -> logging.Logger:
    """The logger `lfkit` to log_path/file_name and the console; what it wrote to before is closed."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    for handler in (logging.FileHandler(Path(log_path) / file_name, encoding="utf-8"), logging.StreamHandler()):
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


def make_run_dir(args: Namespace) -> tuple[Path, str]:
    """A new directory <log_dir>/<model_name>_<model_msg>_<%m%d%H%M> (a second one in a minute gets a suffix), and its start time."""
    start = time.strftime("%m%d%H%M")
    for suffix in ["", *(f"_{k}" for k in range(2, 1000))]:
        path = Path(args.log_dir) / f"{args.model_name}_{args.model_msg}_{start}{suffix}"
        try:
            path.mkdir(parents=True)
            return path, start
        except FileExistsError:
            continue
    raise ValueError(f"{args.log_dir}: 999 runs in one minute; pass another --log_dir")


def build(args: Namespace, device: torch.device) -> tuple[DeoccNet, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The network with Xavier weights, Adam over its trainable parameters, and StepLR."""
    torch.manual_seed(args.seed)
    model = DeoccNet(args.channels, args.views_num, args.max_disp, args.step)
    model.apply(weights_init_xavier)
    model.to(device)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=args.lr)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=args.decay_step, gamma=args.gamma)


def make_loader(args: Namespace, dataset: DatasetLF | SyntheticLF, epoch: int) -> DataLoader:
    """Shuffled batches; order and crops depend on the seed and the epoch alone."""
    dataset.set_epoch(epoch)
    order = torch.Generator().manual_seed(args.seed * 1_000_003 + epoch)
    return DataLoader(dataset, batch_size=args.batch_size, shuffle=True, num_workers=args.num_workers, generator=order,
                      pin_memory=torch.cuda.is_available())


def train_epoch(args: Namespace, model: nn.Module, criterion: Callable, criterion1: Callable, optimizer, scheduler, epoch: int,
                weights: dict[str, float], device: torch.device, dataset: DatasetLF | SyntheticLF | None = None) -> dict:
    """One epoch of training.

    Args:
        args: the run's arguments.
        model: trained in place.
        criterion: loss on the disparity.
        criterion1: loss on the two distributions.
        optimizer, scheduler: stepped once a batch; the scheduler once an epoch unless args.decay_unit is "batch".
        epoch: its number; chooses crops and order.
        weights: loss1_weight (depDistT), loss2_weight (depDistS), loss3_weight (depth_map).
        device: where the model is.
        dataset: built from args where it is not given.

    Returns:
        Report: epoch, lr, load_time and time (seconds), the means over all crops of loss, loss1, loss2, loss3 and mse (squared
        pixels, border 11), out_of_range (percent), crops.
    """
    start = time.perf_counter()
    model.train()
    loader = make_loader(args, dataset or open_training(args, device), epoch)
    load_time = time.perf_counter() - start
    lr = optimizer.param_groups[0]["lr"]
    totals, crops = {}, 0
    for lf, _, _, fg_disp, bg_disp in tqdm(loader, desc=f"epoch {epoch}", leave=False, delay=QUIET_SECONDS):
        lf, fg_disp, bg_disp = (part.to(device, non_blocking=True) for part in (lf, fg_disp, bg_disp))
        optimizer.zero_grad()
        outputs = model(rearrange(lf, "b u v h w c -> b (u v) c h w"))
        loss, parts = training_loss(outputs, fg_disp, bg_disp, criterion, criterion1, weights, args.max_disp, args.step, args.hidden_weight)
        loss.backward()
        optimizer.step()
        if args.decay_unit == "batch":
            scheduler.step()
        border = min(BORDER, (min(bg_disp.shape[1:]) - 1) // 2)  # a crop under 23 pixels keeps its middle
        parts["mse"] = float(np.mean([compute_mse(p, t, border) for p, t in zip(outputs[2], bg_disp)]))
        crops += len(lf)
        for name, value in parts.items():
            totals[name] = totals.get(name, 0.0) + value * len(lf)
    if args.decay_unit == "epoch":
        scheduler.step()
    means = {name: total / crops for name, total in totals.items()}
    report = {"epoch": epoch, "lr": lr, "load_time": load_time, "time": time.perf_counter() - start, "crops": crops, **means}
    logger.info("Training epoch %d, lr %.2e, load %.2f s, time %.2f s, loss %.6f (T %.6f, S %.6f, disparity %.6f px), MSE x100 %.4f px^2, "
                "outside the levels %.2f %%", epoch, lr, load_time, report["time"], *(means[k] for k in ("loss", "loss1", "loss2", "loss3")),
                100 * means["mse"], means["out_of_range"])
    return report


def validation(args: Namespace, epoch: int, model: nn.Module, best_mse: float, log_path: str | Path, device: torch.device) -> dict:
    """Validates the scenes of a list in the data directory, whole, by overlapping crops.

    Args:
        args: data_dir, if_debug (1: debug_testing_images.txt, 0: testing_images.txt), views_num, test_length, shave, mod, save_image_every.
        epoch: number of epochs trained; names the folder of pictures.
        model: evaluated; comes back in the mode it came in.
        best_mse: lowest mean so far, in squared pixels.
        log_path: the run's directory; every scene's pictures are saved there when epoch is a multiple of save_image_every.
        device: where the model is.

    Returns:
        Report: epoch, mse (squared pixels) and bad_pix (percent above 0.07) as means over the scenes, border 11; best_mse, is_best, time,
        scenes (a dict of each one's mse and bad_pix) and predictions (each one's 'h w' map).
    """
    start = time.perf_counter()
    was_training = model.training
    model.eval()
    scores, predictions = {}, {}
    try:
        for name, scene in tqdm(validation_scenes(args), desc="validation", leave=False, delay=QUIET_SECONDS):
            if scene.bg_disp is None:
                raise ValueError(f"{name} in {args.data_dir} has no true disparity to validate against; take it off the scene list")
            with torch.inference_mode():
                disp = predict_scene(scene.lf, model, device, args.test_length, args.shave, args.mod)[2].numpy()
            scores[name] = {"mse": compute_mse(disp, scene.bg_disp), "bad_pix": compute_bad_pix(disp, scene.bg_disp)}
            predictions[name] = disp
            if epoch % args.save_image_every == 0:
                save_validation_result(log_path, epoch, name, as_byte(scene.centre), disp, scene.bg_disp)
    finally:
        model.train(was_training)
    if not scores:
        raise ValueError(f"the scene list in {args.data_dir} that --if_debug {args.if_debug} chooses names no scene; write one a line")
    mse, bad_pix = (float(np.mean([s[key] for s in scores.values()])) for key in ("mse", "bad_pix"))
    report = {"epoch": epoch, "mse": mse, "bad_pix": bad_pix, "best_mse": min(mse, best_mse), "is_best": mse < best_mse,
              "time": time.perf_counter() - start, "scenes": scores, "predictions": predictions}
    logger.info("=====> Validation epoch %d, time %.2f s, MSE x100 %.4f px^2 (best %.4f), BadPix 0.07 %.2f %%",
                epoch, report["time"], 100 * mse, 100 * report["best_mse"], bad_pix)
    return report


class Run:
    """A training run: its directory, curves, best score, and the checkpoint that continues it."""

    CURVES = ("train_loss", "train_metric", "test_metric")

    def __init__(self, args: Namespace, device: torch.device):
        self.args, self.device, self.epoch, self.best_mse = args, device, args.current_iter, float("inf")
        self.curves = {name: [] for name in self.CURVES}
        self.tested, self.finished = None, False
        self.model, self.optimizer, self.scheduler = build(args, device)
        skipped: list[str] = []
        source = args.model_save_dir
        if source is None and args.resume == "auto":
            source = find_checkpoint(args.log_dir, f"{args.model_name}_{args.model_msg}_*", skipped)
        restored = load_checkpoint(source, self.model, self.optimizer, self.scheduler) if source else {}
        self._open(Path(source) if source else None, restored)
        for message in skipped:
            logger.warning("passed over: %s", message)
        if restored:
            self._restore(restored)
            logger.info("resumed %s at epoch %d", source, self.epoch)
        elif args.resume == "auto":
            logger.info("nothing to resume under %s: starting anew", args.log_dir)

    def _open(self, source: Path | None, restored: dict) -> None:
        """The directory that the checkpoint lies in when it is its run's own, else a new one."""
        for folder in source.resolve().parents[:2] if source else ():
            if folder.name == restored.get("run_name"):
                self.log_path, self.start = folder, restored["start"]
                break
        else:
            self.log_path, self.start = make_run_dir(self.args)
        setup_logging(self.log_path, f"{self.args.model_name}_{self.start}.log")

    def _restore(self, checkpoint: dict) -> None:
        self.epoch, self.best_mse = checkpoint["epoch"], checkpoint.get("best_mse", float("inf"))
        self.curves = {name: list(checkpoint.get("curves", {}).get(name, [])) for name in self.CURVES}
        self.finished = checkpoint.get("finished", False) and self.epoch >= self.args.epoch
        if checkpoint.get("tested"):
            self.tested = checkpoint["tested"] | {"predictions": {}}
        if "random_states" in checkpoint:
            restore_random_states(checkpoint["random_states"])

    def save(self, path: Path) -> None:
        """Writes a checkpoint with all that resuming needs."""
        tested = {name: value for name, value in self.tested.items() if name != "predictions"}
        save_checkpoint(self.args, self.epoch, self.model, self.optimizer, self.scheduler, path, best_mse=self.best_mse, curves=self.curves,
                        tested=tested, finished=self.finished, random_states=random_states(), run_name=self.log_path.name, start=self.start)

    def validate(self) -> None:
        """Validates, and keeps the best checkpoint and a numbered one."""
        self.tested = validation(self.args, self.epoch, self.model, self.best_mse, self.log_path, self.device)
        self.best_mse = self.tested["best_mse"]
        self.finished = self.epoch >= self.args.epoch
        if self.tested["is_best"]:  # before the numbered one, so that a kill in between can't lose it
            self.save(self.log_path / "model_best.pkl")
        self.save(self.log_path / "model_state" / f"model_{self.epoch}.pkl")

    def train(self, criterion: Callable, criterion1: Callable, weights: dict[str, float], dataset: DatasetLF | SyntheticLF | None) -> dict:
        """Trains one epoch, and keeps its curves and the state after it."""
        report = train_epoch(self.args, self.model, criterion, criterion1, self.optimizer, self.scheduler, self.epoch, weights, self.device,
                             dataset)
        self.epoch += 1
        for name, value in zip(self.CURVES, (report["loss"], report["mse"], self.tested["mse"])):
            self.curves[name].append(float(value))
            np.save(self.log_path / f"{name}.npy", np.array(self.curves[name]))
        self.save(self.log_path / "model_state" / "model_last.pkl")
        return report


def fit(args: Namespace, device: torch.device | None = None, on_report: Callable[[dict], None] | None = None) -> Iterator[dict]:
    """Trains a run from its arguments, or goes on with one, and yields a report after every epoch.

    Every val_every-th epoch is validated before it is trained, so that a fault of validation shows in the first minute; the run
    ends with a validation and a checkpoint. Stopping the iteration anywhere leaves whole checkpoints.

    Args:
        args: from `get_parser`.
        device: chosen from args.device where it is not given.
        on_report: called with each report before it is yielded, such as a dashboard.

    Yields:
        epoch (how many are trained), train (report of `train_epoch`, or None for the last), validation (the newest report of
        `validation`), curves, best_mse, log_path.
    """
    run = Run(args, device or choose_device(args.device))
    criterion, criterion1 = CRITERIA["l1"](), CRITERIA[args.criterion1]()
    weights = {name: getattr(args, name) for name in WEIGHT_NAMES}
    if run.finished:
        logger.info("the run in %s has trained all of its %d epochs; raise --epoch to go on", run.log_path, args.epoch)
        return
    dataset = None if args.dataset_per_epoch else open_training(args, run.device)
    logger.info("training in %s on %s", run.log_path, run.device)
    trained = {}
    while trained is not None:
        if run.tested is None or run.epoch % args.val_every == 0 or run.epoch >= args.epoch:
            run.validate()
        trained = run.train(criterion, criterion1, weights, dataset) if run.epoch < args.epoch else None
        report = {"epoch": run.epoch, "train": trained, "validation": run.tested, "curves": run.curves, "best_mse": run.best_mse,
                  "log_path": run.log_path}
        if on_report:
            on_report(report)
        yield report
