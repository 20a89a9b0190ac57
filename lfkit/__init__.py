"""lfkit: see depth through things with light fields."""

from lfkit.checkpoint import best_checkpoint, find_checkpoint, load_checkpoint, load_model, load_pretrained, save_checkpoint
from lfkit.config import PROFILES, get_parser
from lfkit.dashboard import plot_loss
from lfkit.dataset import DatasetLF
from lfkit.disparity import disp_expectation, disparity_levels, get_disp_distribution, inside_levels, nearest_peak
from lfkit.distributed import choose_device
from lfkit.engine import build, fit, train_epoch, validation
from lfkit.inference import overlap_crop_forward, predict_scene
from lfkit.lightfield import Scene, load_scene, save_scene, write_synthetic
from lfkit.losses import training_loss
from lfkit.metrics import compute_bad_pix, compute_mse
from lfkit.model import DeoccNet, get_parameter_number, weights_init_xavier
from lfkit.receptive import receptive_radius
from lfkit.see_through import see_through
from lfkit.synthetic import synthesize
from lfkit.tables import format_table, score_scene
from lfkit.visual import save_validation_result

__version__ = "0.1.0"
__all__ = ["PROFILES", "DatasetLF", "DeoccNet", "Scene", "best_checkpoint", "build", "choose_device", "compute_bad_pix", "compute_mse", "disp_expectation",
           "disparity_levels", "find_checkpoint", "fit", "format_table", "get_disp_distribution", "get_parameter_number", "get_parser", "inside_levels",
           "load_checkpoint", "load_model", "load_pretrained", "load_scene", "nearest_peak", "overlap_crop_forward", "plot_loss", "predict_scene",
           "receptive_radius", "save_checkpoint", "save_scene", "save_validation_result", "score_scene", "see_through", "synthesize", "train_epoch",
           "training_loss", "validation", "weights_init_xavier", "write_synthetic"]
