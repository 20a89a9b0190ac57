"""The training loop: validate, train, keep what resuming needs."""

import glob
import logging
import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from lfkit import distributed
from lfkit.checkpoint import (find_checkpoint, load_checkpoint, prune_checkpoints, random_states, read_checkpoint, restore, restore_random_states, save_checkpoint,
                              scored_weights, seed_all)
from lfkit.dataset import DatasetLF, open_training, validation_scenes
from lfkit.faults import Fault, explained, undisturbed
from lfkit.inference import QUIET_SECONDS, predict_scene
from lfkit.lightfield import as_byte
from lfkit.losses import CRITERIA, DISP_CRITERIA, WEIGHT_NAMES, training_loss
from lfkit.metrics import compute_bad_pix, compute_mse, fitting_border
from lfkit.model import DeoccNet, weights_init_xavier
from lfkit.optim import PRECISIONS, make_average, make_optimizer, make_scaler, make_scheduler
from lfkit.rundir import claim_run, describe_start, discard_run, make_run_dir, release_run, setup_logging, write_curves
from lfkit.visual import save_validation_result

logger = logging.getLogger("lfkit")
LEARNED = ("data_dir", "mask_dir", "embed", "patch_size", "batch_size", "accumulate", "crops_per_scene", "synthetic_scenes", "train_only", "criterion", "criterion1", *WEIGHT_NAMES,
           "hidden_weight", "outline_weight", "jolt", "clip", "precision", "seed")  # flags that tell what is learned, and from what


def build(args: Namespace, device: torch.device,
          steps: int | None = None) -> tuple[DeoccNet, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The network with Xavier weights or those of args.start_from, the optimizer over its trainable parameters, and the rate's scheduler: Adam and StepLR unless args say otherwise.

    Args:
        args: the run's arguments.
        device: where the network is to be.
        steps: steps an epoch; needed only for `--schedule cosine --decay_unit batch`.
    """
    torch.manual_seed(args.seed)
    model = DeoccNet(args.channels, args.views_num, args.max_disp, args.step)
    model.apply(weights_init_xavier)
    if args.start_from:
        model.load_state_dict(scored_weights(load_checkpoint(args.start_from, model)))
    model.jolt = args.jolt
    train_only(model, args.train_only)
    model.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)
    optimizer = make_optimizer(args, model)
    return model, optimizer, make_scheduler(args, optimizer, steps)


def train_only(model: nn.Module, parts: str) -> None:
    """Freezes all parameters of the model but those of the parts, a list with commas, if there are any; ValueError where the model lacks one."""
    chosen, known = parts.split(",") if parts else [], {name.split(".")[0] for name, _ in model.named_parameters()}
    if unknown := [part for part in chosen if part not in known]:
        raise ValueError(f"--train_only takes parts of the network, with commas between them: got {', '.join(unknown)}; its parts are {', '.join(sorted(known))}")
    for name, parameter in model.named_parameters():
        if chosen and name.split(".")[0] not in chosen:
            parameter.requires_grad_(False)


def make_loader(args: Namespace, dataset: DatasetLF, epoch: int, device: torch.device) -> tuple[DataLoader, list]:
    """This rank's batches in random order, and what each step makes of them (see `share_batches`).

    Order and crops depend on the seed and the epoch alone: a run that goes on needs no state of the loader.
    """
    dataset.set_epoch(epoch)
    generator = torch.Generator().manual_seed((args.seed * 1_000_003 + epoch) % 2**63)
    steps = distributed.share_batches(torch.randperm(len(dataset), generator=generator).tolist(), args.batch_size, args.accumulate)
    loader = DataLoader(dataset, batch_sampler=[crops for step in steps for crops, _ in step], num_workers=args.num_workers, generator=generator,
                        pin_memory=device.type == "cuda" and bool(args.pin_memory))
    return loader, steps


@dataclass
class Trainer:
    """What a step of training uses; as the arguments of `train_epoch`."""

    args: Namespace
    model: nn.Module
    criterion: Callable
    criterion1: Callable
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    epoch: int
    weights: dict[str, float]
    device: torch.device
    dataset: DatasetLF
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    log_path: Path

    def loss(self, batch: tuple) -> tuple[torch.Tensor, dict, tuple]:
        """The loss of a batch, what to report of it, and (predicted, true) disparity."""
        args, device = self.args, self.device
        lf, _, _, fg_disp, bg_disp = (part.to(device, non_blocking=True) for part in batch)
        lf = lf.float() / 255 if lf.dtype == torch.uint8 else lf
        with torch.autocast(device.type, PRECISIONS[args.precision], enabled=args.precision != "float32"):
            earlier = {"earlier": True} if isinstance(distributed.unwrap(self.model), DeoccNet) else {}
            outputs = self.model(rearrange(lf, "b u v h w c -> b (u v) c h w"), **earlier)
        outputs = tuple(out.float() for out in outputs)
        loss, parts = training_loss(outputs, fg_disp, bg_disp, self.criterion, self.criterion1, self.weights, args.max_disp, args.step,
                                    args.hidden_weight, args.outline_weight)
        if distributed.world() > 1:  # an output of which no pixel counted would leave its weights without a gradient, and the other ranks waiting
            loss = loss + 0 * sum(out.sum() for out in outputs)
        return loss, parts, (outputs[2].detach(), bg_disp)

    def stop(self, what: str, number: int, crops: list[int], batch: tuple, mine: bool) -> None:
        """Saves what led to a number that is not finite, on the first rank that has one, and ends the run on all."""
        found = distributed.gather([self.dataset.describe(k) for k in crops] if mine else [])
        names = [name for names in found for name in names]
        path = self.log_path / f"nonfinite_epoch{self.epoch}_step{number}.pkl"
        if distributed.rank() == next(k for k, names in enumerate(found) if names):
            lf, _, _, fg_disp, bg_disp = (part.cpu() for part in batch)
            save_checkpoint(self.args, self.epoch, distributed.unwrap(self.model), self.optimizer, self.scheduler, path, crops=names,
                            batch={"lf": lf, "fg_disp": fg_disp, "bg_disp": bg_disp})
        lr = self.optimizer.param_groups[0]["lr"]
        raise Fault(f"{what} is not finite in epoch {self.epoch}, step {number}, at a rate of {lr:.2e}; the step used {', '.join(names)}. "
                    f"The state before it is in {path}: look at these crops, set --clip 1, or start a new run at a lower --lr")

    def update(self, number: int, crops: list[int], batch: tuple) -> float:
        """One step of optimizer, average and scheduler; gives the norm of the gradient."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.args.clip or math.inf)
        if not self.scaler.is_enabled() and not math.isfinite(norm):  # the scaler leaves such a step out, and scales down
            self.stop("the gradient", number, crops, batch, True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(distributed.unwrap(self.model))
        if self.args.decay_unit == "batch":
            self.scheduler.step()
        return float(norm)

    def run(self, loader: DataLoader, steps: list) -> dict:
        """Trains on all batches; gives the sums over this rank's crops of all that is reported, and their number."""
        totals, start, batches = {"crops": 0}, time.perf_counter(), iter(loader)
        bar = tqdm(steps, desc=f"epoch {self.epoch}", leave=False, delay=QUIET_SECONDS, disable=distributed.rank() > 0)
        for number, step in enumerate(bar):
            self.optimizer.zero_grad()
            for k, (crops, weight) in enumerate(step):
                batch = next(batches)
                with nullcontext() if k + 1 == len(step) or distributed.world() == 1 else self.model.no_sync():  # gradients are averaged over the ranks once a step
                    loss, parts, maps = self.loss(batch)
                    mine = not math.isfinite(parts["loss"])
                    if distributed.on_any(mine, self.device):
                        self.stop("the loss", number, crops, batch, mine)
                    self.scaler.scale(loss * weight).backward()
                if weight:
                    parts["mse"] = float(np.mean([compute_mse(p, t, fitting_border(t.shape)) for p, t in zip(*maps)]))
                    totals["crops"] += len(crops)
                    for name, value in parts.items():
                        totals[name] = totals.get(name, 0.0) + value * len(crops)
            with undisturbed():  # half an update would leave a network that no run has
                norm = self.update(number, [k for crops, weight in step if weight for k in crops], batch)
            bar.set_postfix({"loss": f"{parts['loss']:.4f}", "gradient": f"{norm:.2g}",
                             "crops/s": f"{totals['crops'] * distributed.world() / (time.perf_counter() - start):.1f}"}, refresh=False)
        return totals


def train_epoch(args: Namespace, model: nn.Module, criterion: Callable, criterion1: Callable, optimizer, scheduler, epoch: int,
                weights: dict[str, float], device: torch.device, dataset: DatasetLF | None = None,
                scaler: torch.amp.GradScaler | None = None, average: AveragedModel | None = None, log_path: str | Path | None = None) -> dict:
    """One epoch of training.

    Interrupted at any moment, it leaves model and optimizer as they were after the last whole step.

    Args:
        args: the run's arguments.
        model: trained in place.
        criterion: loss on the disparity.
        criterion1: loss on the two distributions.
        optimizer, scheduler: stepped once every args.accumulate batches; the scheduler once an epoch unless args.decay_unit is "batch".
        epoch: its number; chooses crops and order.
        weights: loss1_weight (depDistT), loss2_weight (depDistS), loss3_weight (depth_map).
        device: where the model is.
        dataset: built from args where it is not given.
        scaler: of --precision fp16, kept from epoch to epoch; made anew where it is not given.
        average: an AveragedModel that follows the weights, or None.
        log_path: folder for the state that is saved when a loss is not finite; args.log_dir where it is not given.

    Returns:
        Report: epoch, lr, load_time and time (seconds), the means over all crops of loss, loss1, loss2, loss3 and mse (squared
        pixels, border 11), out_of_range (percent), crops, crops_per_second.

    Raises:
        Fault: when a loss or gradient is not finite, memory runs out, or a loader process is gone.
    """
    start = time.perf_counter()
    model.train()
    with explained(args):
        dataset = dataset or open_training(args, device)
        loader, steps = make_loader(args, dataset, epoch, device)
        load_time = time.perf_counter() - start
        lr = optimizer.param_groups[0]["lr"]
        try:
            trainer = Trainer(args, model, criterion, criterion1, optimizer, scheduler, epoch, weights, device, dataset,
                              scaler or make_scaler(args, device), average, Path(log_path or args.log_dir))
            shares = distributed.gather(trainer.run(loader, steps))
        finally:
            optimizer.zero_grad()  # frees the gradients, and leaves none behind where the epoch is broken off
    if args.decay_unit == "epoch":
        scheduler.step()
    totals = {name: sum(share.get(name, 0.0) for share in shares) for name in shares[0]}
    crops = totals.pop("crops")
    means = {name: total / crops for name, total in totals.items()}
    seconds = time.perf_counter() - start
    report = {"epoch": epoch, "lr": lr, "load_time": load_time, "time": seconds, "crops": crops, "crops_per_second": crops / seconds, **means}
    logger.info("Training epoch %d, lr %.2e, load %.2f s, time %.2f s (%.1f crops/s), loss %.6f (T %.6f, S %.6f, disparity %.6f), "
                "MSE x100 %.4f px^2, outside the levels %.2f %%", epoch, lr, load_time, seconds, report["crops_per_second"],
                *(means[k] for k in ("loss", "loss1", "loss2", "loss3")), 100 * means["mse"], means["out_of_range"])
    return report


def validation(args: Namespace, epoch: int, model: nn.Module, best_mse: float, log_path: str | Path, device: torch.device) -> dict:
    """Validates the scenes of a list in the data directory, whole, by overlapping crops; each rank a share of them where there are several.

    Args:
        args: data_dir, if_debug (1: debug_testing_images.txt, 0: testing_images.txt), views_num, test_length, shave, mod, save_image_every, epoch.
        epoch: number of epochs trained; names the folder of pictures.
        model: evaluated; comes back in the mode it came in.
        best_mse: lowest mean so far, in squared pixels.
        log_path: the run's directory; every scene's pictures are saved there when epoch is a multiple of save_image_every, or the run's last.
        device: where the model is.

    Returns:
        Report: epoch, mse (squared pixels) and bad_pix (percent above 0.07) as means over the scenes, border 11, less where a scene is smaller than 23 pixels; best_mse, is_best, time,
        scenes (a dict of each one's mse and bad_pix) and predictions (each one's 'h w' map).
    """
    start = time.perf_counter()
    was_training = model.training
    model.eval()
    scores, predictions, pictures = {}, {}, {}
    rank, world = distributed.rank(), distributed.world()
    try:
        scenes = validation_scenes(args, slice(rank, None, world))
        for name, scene in tqdm(scenes, desc="validation", leave=False, delay=QUIET_SECONDS, disable=rank > 0):
            if scene.bg_disp is None:
                raise ValueError(f"{name} in {args.data_dir} has no true disparity to validate against; take it off the scene list")
            with torch.inference_mode():
                disp = predict_scene(scene.lf, model, device, args.test_length, args.shave, args.mod)[2].numpy()
            border = fitting_border(disp.shape)
            scores[name] = {"mse": compute_mse(disp, scene.bg_disp, border), "bad_pix": compute_bad_pix(disp, scene.bg_disp, border=border)}
            predictions[name] = disp
            if epoch % args.save_image_every == 0 or epoch == args.epoch:
                pictures[name] = (as_byte(scene.centre), disp, np.asarray(scene.bg_disp))
    finally:
        model.train(was_training)
    scores, predictions, pictures = (distributed.merge(part) for part in (scores, predictions, pictures))
    for name, maps in pictures.items() if rank == 0 else ():
        save_validation_result(log_path, epoch, name, *maps)
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

    CURVES = ("train_loss", "train_metric", "test_metric", "lr", "loss1", "loss2", "loss3", "out_of_range", "bad_pix")

    def __init__(self, args: Namespace, device: torch.device):
        self.args, self.device, self.epoch, self.best_mse = args, device, args.current_iter, float("inf")
        self.curves = {name: [] for name in self.CURVES}
        self.tested, self.finished = None, False
        source, checkpoint, skipped = distributed.on_first(self._find)
        self.log_path, self.start = distributed.on_first(lambda: self._open(source, checkpoint))
        for message in skipped:
            logger.warning("passed over: %s", message)
        self._keep(checkpoint)
        try:
            self.dataset, self.fresh = open_training(args, device), True
            together = args.batch_size * args.accumulate * distributed.world()
            weights_follow = {"start_from": None} if source else {}  # what the run once started from may be gone
            self.model, self.optimizer, self.scheduler = build(Namespace(**vars(args) | weights_follow), device, -(-len(self.dataset) // together))
            self.scaler, self.average = make_scaler(args, device), make_average(args, self.model)
            seed_all(args.seed + distributed.rank())  # the weights are alike on all ranks, what is drawn later is not
            if source:
                self._restore(checkpoint, source)
        except BaseException:
            if distributed.rank() == 0 and self.log_path.name != checkpoint.get("run_name"):
                discard_run(self.log_path)
            release_run(self.log_path)
            raise
        if source:
            logger.info("resumed %s at epoch %d", source, self.epoch)
        elif args.resume == "auto":
            logger.info("nothing to resume under %s: starting anew", args.log_dir)
        self.net = distributed.wrap(self.model, device)
        if args.compile:
            self.net = torch.compile(self.net)
        if distributed.rank() == 0:
            write_curves(self.log_path, self.curves, self.epoch)
            if not self.finished:
                describe_start(self.log_path, args, device, self.epoch)

    def _find(self) -> tuple[Path | None, dict, list[str]]:
        """The checkpoint to go on from and what is in it, and why newer ones were passed over."""
        skipped: list[str] = []
        source = self.args.model_save_dir and Path(self.args.model_save_dir)
        if self.args.resume == "auto":
            run = f"{glob.escape(f'{self.args.model_name}_{self.args.model_msg}')}_{'[0-9]' * 8}"  # so that the run of another tag, which begins alike, is not taken for this one
            found = find_checkpoint(self.args.log_dir, [run, *(f"{run}_{'[0-9]' * digits}" for digits in (1, 2, 3))], skipped)
            newer = not source or found and not (source.exists() and source.stat().st_mtime_ns >= found.stat().st_mtime_ns)
            source = found if newer else source  # what was trained from the file that is named is newer than it
        return (source, read_checkpoint(source), skipped) if source else (None, {}, skipped)

    def _open(self, source: Path | None, checkpoint: dict) -> tuple[Path, str]:
        """The directory that the checkpoint lies in when it is its run's own, else a new one; and the run's start time."""
        folders = [folder for folder in (source.resolve().parents[:2] if source else ()) if folder.name == checkpoint.get("run_name")]
        log_path, start = (folders[0], checkpoint["start"]) if folders else make_run_dir(self.args)
        name = f"{self.args.model_name}_{self.args.model_msg}"
        claim_run(log_path)
        for left in log_path.rglob("*.tmp"):  # of a process that was killed while it wrote
            left.unlink()
        setup_logging(log_path, f"{self.args.model_name}_{start}.log")
        if folders and not (log_path.name.startswith(f"{name}_") and log_path.parent == Path(self.args.log_dir).resolve()):
            logger.warning("%s goes on where it lies, in %s, not as %s under %s; start a new one with --start_from for that", source, log_path, name, self.args.log_dir)
        return log_path, start

    def _keep(self, checkpoint: dict) -> None:
        """The arguments that the states of optimizer and scheduler bring back are those of the run that goes on; of others that differ, and tell what is learned, there is a word."""
        before = checkpoint.get("args", {})
        by_steps = "lr_lambdas" not in checkpoint.get("scheduler_state_dict", {})
        for name in ("lr", "decay_unit", "decay_step", "gamma") if by_steps else ("lr", "decay_unit"):
            saved = before.get(name, getattr(self.args, name))
            if saved != getattr(self.args, name):
                logger.warning("a run that goes on keeps its --%s %s: got %s; start a new one with --start_from for that", name, saved, getattr(self.args, name))
                setattr(self.args, name, saved)
        if other := [f"--{name} {getattr(self.args, name)} (before: {before[name]})" for name in LEARNED if name in before and before[name] != getattr(self.args, name)]:
            logger.warning("from here on the run has %s", ", ".join(other))

    def _restore(self, checkpoint: dict, source: Path) -> None:
        restore(checkpoint, source, self.model, self.optimizer, self.scheduler)
        if isinstance(self.scheduler, LambdaLR):  # of a cosine the rate depends on --epoch, which may have been raised
            for group, first, factor in zip(self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas):
                group["lr"] = first * factor(self.scheduler.last_epoch)
        if checkpoint.get("scaler_state_dict") and self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint["scaler_state_dict"])
        if self.average is not None:
            self.average.module.load_state_dict(scored_weights(checkpoint))
            self.average.n_averaged.fill_(checkpoint.get("averaged", 0))
        self.epoch, self.best_mse = checkpoint["epoch"], checkpoint.get("best_mse", float("inf"))
        with suppress(FileNotFoundError, ValueError):  # a damaged best is no loss to a run that goes on
            best = self.log_path / "model_best.pkl"
            if (better := read_checkpoint(best).get("best_mse", float("inf"))) < self.best_mse:  # of a later epoch, where a run went back
                logger.warning("%s, of MSE x100 %.4f, is better than what the run goes on from: it stays until that is beaten", best, 100 * better)
                self.best_mse = better
        saved = checkpoint.get("curves", {})
        missing = [float("nan")] * len(saved.get("train_loss", []))  # of a checkpoint from before a curve was kept
        self.curves = {name: list(saved.get(name, missing)) for name in self.CURVES}
        self.finished = checkpoint.get("finished", False) and self.epoch >= self.args.epoch
        if checkpoint.get("tested"):
            self.tested = checkpoint["tested"] | {"predictions": {}}
        states = checkpoint.get("random_states", [])
        states = [states] if isinstance(states, dict) else states
        if distributed.rank() < len(states):
            restore_random_states(states[distributed.rank()])

    def save(self, *names: str) -> None:
        """Writes checkpoints, under names in the run's directory, with all that resuming needs; one rank does."""
        states = distributed.gather(random_states())
        tested = {name: value for name, value in self.tested.items() if name != "predictions"}
        average = {} if self.average is None else {"average_state_dict": self.average.module.state_dict(), "averaged": int(self.average.n_averaged)}
        def write():
            for name in names:
                save_checkpoint(self.args, self.epoch, self.model, self.optimizer, self.scheduler, self.log_path / name, best_mse=self.best_mse,
                                curves=self.curves, tested=tested, finished=self.finished, random_states=states, run_name=self.log_path.name,
                                start=self.start, scaler_state_dict=self.scaler.state_dict(), **average)
            prune_checkpoints(self.log_path / "model_state", self.args.keep)
        distributed.on_first(write)

    def validate(self) -> None:
        """Validates, and keeps the best checkpoint and a numbered one."""
        model, before = self.model if self.average is None else self.average.module, self.tested
        with explained(self.args, training=False):
            self.tested = validation(self.args, self.epoch, model, self.best_mse, self.log_path, self.device)
        if before and before["scenes"].keys() != self.tested["scenes"].keys():
            logger.warning("other scenes are validated than before, %s: the best score starts anew with them", ", ".join(sorted(self.tested["scenes"])))
            self.tested |= {"best_mse": self.tested["mse"], "is_best": True}
        self.best_mse = self.tested["best_mse"]
        self.finished = self.epoch >= self.args.epoch
        best = ["model_best.pkl"] if self.tested["is_best"] else []  # before the numbered one, so that a kill in between can't lose it
        self.save(*best, f"model_state/model_{self.epoch}.pkl")

    def train(self, criterion: Callable, criterion1: Callable, weights: dict[str, float]) -> dict:
        """Trains one epoch, and keeps its curves and the state after it."""
        if self.args.dataset_per_epoch and not self.fresh:
            self._reopen()
        self.fresh = False
        report = train_epoch(self.args, self.net, criterion, criterion1, self.optimizer, self.scheduler, self.epoch, weights, self.device,
                             self.dataset, self.scaler, self.average, self.log_path)
        self.epoch += 1
        values = {**report, "train_loss": report["loss"], "train_metric": report["mse"], "test_metric": self.tested["mse"],
                  "bad_pix": self.tested["bad_pix"]}
        for name, curve in self.curves.items():
            curve.append(float(values[name]))
        self.save("model_state/model_last.pkl")
        distributed.on_first(lambda: write_curves(self.log_path, self.curves, self.epoch))
        return report

    def _reopen(self) -> None:
        """The training scenes anew; FileNotFoundError when one that was there is gone."""
        names = lambda dataset: {scene.name for scene in getattr(dataset, "scenes", ())}
        before, self.dataset = self.dataset, open_training(self.args, self.device)
        if gone := names(before) - names(self.dataset):
            raise FileNotFoundError(f"{self.args.data_dir}: {', '.join(sorted(gone))} vanished in mid run; put it back, or start a new run "
                                    "without it")


def fit(args: Namespace, device: torch.device | None = None) -> Iterator[dict]:
    """Trains a run from its arguments, or goes on with one, and yields a report after every epoch.

    Every val_every-th epoch is validated before it is trained, so that a fault of validation shows in the first minute; the run
    ends with a validation and a checkpoint. Stopping the iteration anywhere leaves whole checkpoints. Under torchrun each rank calls it.

    Args:
        args: from `get_parser`.
        device: chosen from args.device where it is not given.

    Yields:
        epoch (how many are trained), train (report of `train_epoch`, or None for the last), validation (the newest report of
        `validation`), curves, best_mse, log_path.

    Raises:
        Fault: when a loss is not finite, memory or disk runs out, or a loader process is gone.
        FileNotFoundError, ValueError: when a scene or the checkpoint to go on from is missing or unfit.
    """
    run = Run(args, device or distributed.choose_device(args.device))
    try:
        if run.finished:
            logger.info("the run in %s has trained all of its %d epochs; raise --epoch to go on", run.log_path, run.epoch)
        else:
            logger.info("training in %s on %s", run.log_path, run.device)
            yield from _epochs(run)
    finally:
        release_run(run.log_path)


def _epochs(run: Run) -> Iterator[dict]:
    """What `fit` yields, of a run that goes on."""
    args, trained = run.args, {}
    criterion, criterion1 = DISP_CRITERIA[args.criterion](), CRITERIA[args.criterion1]()
    weights = {name: getattr(args, name) for name in WEIGHT_NAMES}
    while trained is not None:
        try:
            if run.tested is None or run.epoch % args.val_every == 0 or run.epoch >= args.epoch:
                run.validate()
            trained = run.train(criterion, criterion1, weights) if run.epoch < args.epoch else None
        except (Exception, KeyboardInterrupt) as error:
            kept = next((file for name in ("model_state/model_*.pkl", "model_best.pkl") for file in run.log_path.glob(name)), None)
            logger.error("ended in epoch %d: %s; %s", run.epoch, str(error) or type(error).__name__,
                         f"{kept.parent} holds the last whole checkpoint, go on with --resume auto" if kept else "nothing had been saved yet")
            raise
        yield {"epoch": run.epoch, "train": trained, "validation": run.tested, "curves": run.curves, "best_mse": run.best_mse, "log_path": run.log_path}
