"""Keys of the algorithms: server optimizer, client objective, client optimizer."""

from __future__ import annotations

from splitft.job.sections import Name, Strict, advanced, key


class ServerOptimizerSettings(Strict):
    """The step of the global adapter from the average of a round."""

    server_optimizer: Name = key(
        "none",
        "How the global adapter follows a round's average. none: it becomes the average (FedAvg). fedavgm: "
        "momentum. fedadam, fedyogi: adaptive steps (Reddi et al., ICLR 2021). Or one of your own.",
    )
    server_learning_rate: float | None = advanced(
        None,
        "Learning rate of the server optimizer. Default: 1 with fedavgm, 0.01 with fedadam and fedyogi.",
        gt=0,
    )
    server_momentum: float = advanced(
        0.9, "Momentum of fedavgm; first beta of fedadam and fedyogi.", ge=0, lt=1
    )
    server_beta2: float = advanced(0.99, "Second beta of fedadam and fedyogi.", ge=0, lt=1)
    server_tau: float = advanced(
        1e-3,
        "Adaptivity of fedadam and fedyogi, the smaller the more; the second moment starts at its square.",
        gt=0,
    )


class ObjectiveSettings(Strict):
    """The clients' objective beside the loss."""

    objective: Name = key(
        "plain",
        "What a client minimises. plain: the loss. fedprox: also proximal_mu / 2 times the squared distance "
        "of its adapters from those handed out at the round's start (Li et al., MLSys 2020). Or one of your "
        "own.",
    )
    proximal_mu: float | None = key(
        None,
        "Weight of the objective's penalty. fedprox needs it; with one of your own the default is 1.",
        ge=0,
    )


class OptimSettings(Strict):
    """The clients' optimizer by name; the server steps each client's trunk with the same."""

    optim: Name = key(
        "adamw_torch",
        "Optimizer, as transformers names it: adamw_torch, adamw_torch_fused (here the same: torch's fused "
        "AdamW), sgd, adagrad, rmsprop, adafactor. Or one of your own.",
    )
    optim_args: Name | None = key(
        None, 'Arguments of the optimizer, as transformers: "momentum=0.9,nesterov=true". Not of AdamW.'
    )
