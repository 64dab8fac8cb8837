"""Optimizers and the learning rate's schedule."""
import math

import paddle

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
    """The recipe's optimizer over the parameter groups of a HashMethod."""
    groups = method.param_groups(recipe["head_lr_mult"])
    return OPTIMIZERS[recipe["optimizer"]](recipe["learning_rate"], groups, recipe)


def learning_rate(recipe, epoch):
    """Learning rate of epoch ``epoch`` (from 0), before the groups' multipliers."""
    base = recipe["learning_rate"]
    if recipe["lr_schedule"] == "step":
        return base * recipe["lr_gamma"] ** (epoch // recipe["lr_step"])
    if recipe["lr_schedule"] == "cosine":
        low = base * recipe["lr_min_ratio"]
        return low + (base - low) * (1 + math.cos(math.pi * epoch / max(recipe["epoch"], 1))) / 2
    return base
