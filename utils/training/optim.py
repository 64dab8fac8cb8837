"""Optimizers, the learning rate's schedule, and one step of the optimizer."""
import math

import paddle

from utils.errors import InputError

OPTIMIZERS = {
    "momentum": lambda lr, groups, recipe: paddle.optimizer.Momentum(
        lr, momentum=recipe["momentum"], parameters=groups, weight_decay=recipe["weight_decay"]),
    "sgd": lambda lr, groups, recipe: paddle.optimizer.SGD(lr, parameters=groups, weight_decay=recipe["weight_decay"]),
    "adam": lambda lr, groups, recipe: paddle.optimizer.Adam(
        lr, parameters=groups, weight_decay=recipe["weight_decay"] or None),
    "adamw": lambda lr, groups, recipe: paddle.optimizer.AdamW(
        lr, parameters=groups, weight_decay=recipe["weight_decay"]),
    # torch's defaults (rho .99, eps outside the root are not Paddle's): the seeds' recipes were made with them
    "rmsprop": lambda lr, groups, recipe: paddle.optimizer.RMSProp(
        lr, rho=0.99, epsilon=1e-8, parameters=groups, weight_decay=recipe["weight_decay"] or None),
}


def make_optimizer(method, recipe):
    """The recipe's optimizer over the parameter groups of a HashMethod.

    Raises:
        InputError: a warm-up as long as the training.
    """
    if recipe["warmup_epochs"] and recipe["warmup_epochs"] >= recipe["epoch"]:
        raise InputError(f"warmup_epochs is {recipe['warmup_epochs']:g} and the training has {recipe['epoch']} epochs; "
                         "lower it, or raise --epoch")
    groups = method.param_groups(recipe["head_lr_mult"])
    return OPTIMIZERS[recipe["optimizer"]](recipe["learning_rate"], groups, recipe)


def learning_rate(recipe, epoch, step=0, steps=1):
    """Learning rate of a step, before the groups' multipliers.

    It grows linearly over the steps of ``warmup_epochs``; then the schedule counts, whose cosine begins where the
    warm-up ends. ``lr_update`` says whether it moves with every epoch or with every step.

    Args:
        recipe: see utils/config.py.
        epoch: from 0.
        step: of the epoch, from 0.
        steps: of the epoch.
    """
    base, warmup = recipe["learning_rate"], recipe["warmup_epochs"]
    ended = epoch + (step + 1) / steps
    if ended < warmup:
        return base * ended / warmup
    now = epoch + step / steps if recipe["lr_update"] == "step" else epoch
    if recipe["lr_schedule"] == "step":
        return base * recipe["lr_gamma"] ** (int(now) // recipe["lr_step"])
    if recipe["lr_schedule"] == "cosine":
        low = base * recipe["lr_min_ratio"]
        passed = math.pi * max(now - warmup, 0) / max(recipe["epoch"] - warmup, 1)
        return low + (base - low) * (1 + math.cos(passed)) / 2
    return base


def set_rate(optimizer, rate):
    """Give the optimizer a learning rate, where it has another."""
    if optimizer.get_lr() != rate:
        optimizer.set_lr(rate)


def apply_gradients(optimizer, parameters, clip_norm=0, scaler=None):
    """Change the parameters by the gradients they hold.

    Args:
        optimizer: of ``make_optimizer``.
        parameters: list of all that train. Their gradients are shortened together, over all groups (an optimizer's
            own ``grad_clip`` looks at one group at a time).
        clip_norm: longest gradient, 0 = no limit.
        scaler: paddle.amp.GradScaler that scaled the loss, or None.
    """
    if scaler and clip_norm:
        scaler.unscale_(optimizer)
    if clip_norm:
        paddle.nn.utils.clip_grad_norm_(parameters, clip_norm)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
