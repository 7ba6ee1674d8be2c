"""Several processes of gloo on the CPU: what is sharded or spread trains as one process does."""

import json
import math
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from torch import distributed
from torch.distributed.fsdp import fully_shard

from mobilebert_hf.distillation import DistillationTrainer
from mobilebert_hf.distillation.stage_callback import without_dropout
from mobilebert_hf.models.encoder import EncoderLayer
from mobilebert_hf.training.gradients import clip_gradients, scaled_norm, total_norm
from mobilebert_hf.training.normalizers import count_batch

from .helpers import paper_arguments
from .models.helpers import build
from .workshop import FORKS, PATIENCE, free_port

CONFIGURATIONS = sorted((Path(__file__).parents[1] / "recipes" / "accelerate").glob("*.yaml"))
STEPS = 16


def take_steps(folder, freezing, rank=0, processes=1):
    """The loss and gradient norm of each step of a progressive run; several processes shard the student."""
    torch.manual_seed(0)
    student, teacher = build("MobileBert", "ForPreTraining"), build("IBBert", "ForPreTraining")
    arguments = paper_arguments(
        folder, transfer_steps=12, distillation_steps=4, teacher_dtype="float32", freezing=freezing, learning_rate=5e-5
    )
    trainer = DistillationTrainer(student, teacher, arguments)
    if processes > 1:
        for layer in student.mobilebert.encoder.layer:
            fully_shard(layer)
        fully_shard(student)
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(STEPS, optimizer)
    trainer.callback_handler.optimizer, trainer.callback_handler.model = optimizer, student
    lines = []
    for step in range(STEPS):
        torch.manual_seed(step)
        ids = torch.randint(5, student.config.vocab_size, (8, 12))
        batch = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_type_ids": torch.zeros_like(ids),
            "labels": ids.masked_fill(torch.rand(8, 12) > 0.3, -100),
            "next_sentence_label": torch.randint(0, 2, (8,)),
        }
        totals = count_batch(batch) / processes
        part = {name: values[rank::processes] for name, values in batch.items()}
        trainer.state.global_step = step
        trainer.callback_handler.on_step_begin(trainer.args, trainer.state, trainer.control)
        with without_dropout(student):
            loss = trainer.compute_loss(student, part, num_items_in_batch=totals)
        loss.backward()
        gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
        norm = total_norm(gradients)
        if step == STEPS - 1:
            clip_overflowing(gradients, student.parameters(), norm.item())
        optimizer.step()
        scheduler.step()
        student.zero_grad()
        loss = loss.detach()
        if processes > 1:
            distributed.all_reduce(loss)
        lines.append({"loss": loss.item() / processes, "grad_norm": norm.item()})
    return lines


def clip_overflowing(gradients, parameters, norm):
    """The norm, and clipping by it, where float32 does not hold it: of gradients times 1e30 that have norm `norm`."""
    for gradient in gradients:
        gradient.mul_(1e30)
    assert not total_norm(gradients).isfinite()
    large = scaled_norm(gradients, total_norm(gradients, math.inf).item())
    assert large == pytest.approx(norm * 1e30, rel=1e-5)
    clip_gradients(parameters, 0.5, large)
    assert total_norm(gradients).item() == pytest.approx(0.5, rel=1e-5)


def take_sharded_steps(rank, folder, freezing, processes, port):
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    lines = take_steps(folder, freezing, rank, processes)
    (folder / f"{rank}.json").write_text(json.dumps(lines))
    distributed.destroy_process_group()


@pytest.mark.parametrize("freezing", ["hard", pytest.param("soft", marks=pytest.mark.slow)])
def test_a_student_sharded_by_fsdp2_takes_the_steps_of_a_whole_one(tmp_path, freezing):
    """Through all stages: some layers do not run, and what does not learn is frozen."""
    port = free_port()
    forks = [FORKS.Process(target=take_sharded_steps, args=(rank, tmp_path, freezing, 2, port)) for rank in range(2)]
    for fork in forks:
        fork.start()
    expected = [pytest.approx(line, rel=1e-5) for line in take_steps(tmp_path, freezing)]
    for rank, fork in enumerate(forks):
        fork.join(PATIENCE)
        assert fork.exitcode == 0
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_accelerate_reads_the_configuration(path):
    configuration = load_config_from_file(str(path))
    assert configuration.num_processes > 1
    if configuration.fsdp_config:
        assert configuration.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == EncoderLayer.__name__
    assert f"--config_file recipes/accelerate/{path.name} recipes/" in path.read_text(), "how to use it"
