"""What the tests of the distillation trainer share."""

from mobilebert_hf.distillation.stage_callback import without_dropout

TERMS = ("feature_map", "mean", "variance", "attention")
WEIGHTS = dict(zip(TERMS, (100.0, 5000.0, 5.0, 1.0), strict=True))
LAYERS = 3


def in_full(network, batch):
    network.set_attn_implementation("eager")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    return network(**inputs, output_hidden_states=True, output_attentions=True)


def independent_transfer_terms(student, teacher, layer, lengths):
    """A layer's four terms, from hidden states and probabilities, over each example's real tokens."""
    sums = dict.fromkeys(TERMS, 0.0)
    for row, length in enumerate(lengths):
        ours, theirs = (output.hidden_states[layer + 1][row, :length] for output in (student, teacher))
        for token, target in zip(ours, theirs, strict=True):
            variance, target_variance = token.var(unbiased=False), target.var(unbiased=False)
            normalized = (token - token.mean()) / variance.sqrt() - (target - target.mean()) / target_variance.sqrt()
            sums["feature_map"] += (normalized**2).mean()
            sums["mean"] += (token.mean() - target.mean()) ** 2
            sums["variance"] += abs(variance - target_variance)
        probabilities, targets = (output.attentions[layer][row, :, :length, :length] for output in (student, teacher))
        sums["attention"] += (targets * (targets.log() - probabilities.log())).sum() / targets.shape[0]
    return {name: value / sum(lengths) for name, value in sums.items()}


def enter_stage(trainer, index):
    """Takes the trainer to the first step of a stage; what does not learn there is frozen."""
    trainer.callback_handler.optimizer = trainer.create_optimizer()
    trainer.state.global_step = trainer.strategy.boundaries[index]
    trainer.callback_handler.on_step_begin(trainer.args, trainer.state, trainer.control)
    return trainer.strategy.stages[index]


def backward(trainer, batch):
    """The loss and gradients of the trainer's stage, as in training."""
    trainer.model.train()
    with without_dropout(trainer.model):
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), gradients(trainer.model)


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
