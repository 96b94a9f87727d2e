"""Which key a user meant: by the last part of its name, by the names of other tools, or by a similar spelling."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches

# Names of ultralytics, timm, torchvision's references, Lightning and transformers, for each of our keys. Where several
# keys have a name in common, the first that the command has is meant.
_OTHER_NAMES: Mapping[str, str] = {
    "backbone": "model arch architecture network net encoder",
    "checkpoint": "model ckpt ckpt_path model_path pretrained initial_checkpoint weights",
    "weights": "pretrained checkpoint ckpt ckpt_path initial_checkpoint finetune_from",
    "source": "model weights checkpoint",
    "models": "model",
    "dataset.root": "data data_dir data_path dataset_dir data_root path",
    "dataset": "data data_dir data_path data_name",
    "class_names": "names labels classes",
    "input.size": "imgsz img_size image_size input_size resolution img",
    "size": "imgsz img_size image_size input_size resolution img",
    "loader.batch_size": "batch batchsize bs train_batch_size per_device_train_batch_size",
    "batch_size": "batch batchsize bs",
    "loader.workers": "workers num_workers n_workers dataloader_num_workers",
    "threads": "workers num_workers num_threads cores",
    "trainer.max_epochs": "epochs epoch num_epochs n_epochs num_train_epochs",
    "trainer": "device gpu gpus cuda",
    "trainer.precision": "amp half fp16 bf16 mixed_precision",
    "precision": "half fp16 int8 quantize dtype",
    "trainer.early_stopping_patience": "patience early_stopping",
    "trainer.gradient_clip_norm": "gradient_clip_val grad_clip clip_grad clip max_grad_norm",
    "trainer.val_every_n_epochs": "check_val_every_n_epoch val_interval eval_interval",
    "trainer.progress_bar": "verbose enable_progress_bar",
    "optimizer": "opt optim",
    "optimizer.lr": "learning_rate lr0 base_lr",
    "optimizer.weight_decay": "wd",
    "scheduler": "sched lr_scheduler schedule",
    "scheduler.warmup_epochs": "warmup lr_warmup_epochs",
    "scheduler.final_fraction": "lrf",
    "ema.decay": "model_ema model_ema_decay",
    "finetune.frozen_layers": "freeze freeze_backbone",
    "augment.horizontal_flip": "fliplr hflip",
    "augment.vertical_flip": "flipud vflip",
    "augment": "augmentation augmentations transforms",
    "head.dropout": "drop",
    "head.label_smoothing": "smoothing",
    "min_score": "conf confidence conf_thres score_threshold threshold",
    "head.score_threshold": "conf confidence conf_thres threshold",
    "head.nms_iou": "iou iou_thres nms",
    "head.max_detections": "max_det",
    "run_dir": "project name exp_name output output_dir out out_dir save_dir work_dir default_root_dir folder",
    "output": "project name output_dir out out_dir save_dir save_path folder",
    "save_images": "save",
    "format": "include export_format",
    "memory_budget": "memory max_memory",
    "seed": "random_seed random_state",
    "resume": "resume_from",
    "split": "val_split",
    "experiment": "config cfg recipe",
    "licence": "license",
    "contenders": "competitors",
    "pictures": "images",
    "check_pictures": "check_images",
    "calibration_pictures": "calibration_images",
    "accuracy_pictures": "accuracy_images",
}
_MOST = 3
# How alike two spellings must be: among the keys of the group that a user named, and among all others.
_ALIKE_SIBLING, _ALIKE = 0.6, 0.8


def suggest(key: str, known: Iterable[str], parent: str) -> str:
    """Returns `` Did you mean 'x'?`` for the key that an unknown one stands for, or lists the keys of its group.

    Args:
        key: Dotted name that a user gave.
        known: Every dotted name that the command has, groups included; only these are suggested.
        parent: The deepest existing group on the way to ``key``; empty for the top.
    """
    name, keys = _last(key), list(known)
    siblings = [each for each in keys if each.rpartition(".")[0] == parent]
    meant = _by_other_name(name, keys) or _by_last_part(name, keys) or _by_spelling(name, keys, siblings)
    if meant:
        return f" Did you mean {' or '.join(map(repr, meant))}?"
    return f" Known: {', '.join(sorted(_last(each) for each in siblings))}." if siblings else ""


def unknown_flag(argument: str, flags: Iterable[str], known: Iterable[str]) -> str:
    """Returns the message for an unknown flag; other tools write as flags what are keys here.

    Args:
        argument: The flag that a user gave, which may have a value behind ``=``.
        flags: Every flag that there is.
        known: Every dotted name that the command has.
    """
    flag, keys = argument.partition("=")[0], list(known)
    name = flag.lstrip("-")
    meant = _by_other_name(name, keys) or _by_last_part(name, keys)
    if meant:
        hint = f"Write {meant[0]}=VALUE."
    elif close := get_close_matches(flag, list(flags), n=1, cutoff=_ALIKE):
        hint = f"Did you mean '{close[0]}'?"
    else:
        hint = "Settings are written key=value; --help lists them."
    return f"There is no flag '{flag}'. {hint}"


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _by_other_name(name: str, keys: Sequence[str]) -> list[str]:
    return [key for key, names in _OTHER_NAMES.items() if key in keys and _plain(name) in names.split()][:1]


def _by_last_part(name: str, keys: Sequence[str]) -> list[str]:
    found = [key for key in keys if _last(key) == _plain(name)]
    return found if len(found) <= _MOST else []


def _by_spelling(name: str, keys: Sequence[str], siblings: Sequence[str]) -> list[str]:
    likeness = {key: _likeness(name, _last(key)) for key in siblings}
    close = {key: score for key, score in likeness.items() if score >= _ALIKE_SIBLING}
    for key in keys:
        score = max(_likeness(name, word) for word in (_last(key), *_OTHER_NAMES.get(key, "").split()))
        if score >= _ALIKE:
            close[key] = max(score, close.get(key, 0.0))
    return [max(close, key=lambda key: close[key])] if close else []


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
