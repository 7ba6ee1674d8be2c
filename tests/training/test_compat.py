"""Contracts with what is private or unstable in transformers, accelerate and torch: each says what depends on it."""

import inspect
from types import SimpleNamespace

import pytest
import torch
import transformers
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from torch import nn
from transformers import Trainer, TrainingArguments

from accelerate import Accelerator
from mobilebert_hf.distillation import DistillationTrainer
from mobilebert_hf.finetuning.bi_encoder import PairTrainer
from mobilebert_hf.finetuning.squad import QuestionAnsweringTrainer
from mobilebert_hf.training import DurableTrainer, compat

OWN_TRAINERS = (DurableTrainer, DistillationTrainer, PairTrainer, QuestionAnsweringTrainer)


@pytest.fixture
def trainer(tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", per_device_train_batch_size=3)
    return Trainer(nn.Linear(2, 2), arguments)


@pytest.mark.parametrize("name", compat.OVERRIDDEN_METHODS)
def test_methods_that_are_overridden_have_the_parameters_they_had(name):
    parameters, consequence = compat.OVERRIDDEN_METHODS[name]
    method = getattr(Trainer, name, None)
    assert method is not None, f"transformers has no Trainer.{name} any more: {consequence} only if it is called."
    if parameters is not None:
        found = tuple(inspect.signature(method).parameters)[1:]
        assert found == parameters, f"Trainer.{name} takes {found}: the override that depends on it is: {consequence}."


@pytest.mark.parametrize("trainer", OWN_TRAINERS)
def test_there_are_at_most_two_own_levels_over_the_library(trainer):
    assert trainer.__mro__.index(Trainer) <= 2


def test_no_other_private_method_is_overridden():
    private = {
        name
        for trainer in OWN_TRAINERS
        for name in vars(trainer)
        if name.startswith("_") and not name.startswith("__") and hasattr(Trainer, name)
    }
    assert private == set(compat.OVERRIDDEN_METHODS), "list it in OVERRIDDEN_METHODS, with what depends on it"


@pytest.mark.parametrize("name", compat.OVERRIDDEN_METHODS)
def test_methods_that_are_overridden_are_called(name):
    source = inspect.getsource(inspect.getmodule(Trainer))
    assert source.count(f"self.{name}") > 0, f"Trainer no longer calls {name}: {compat.OVERRIDDEN_METHODS[name][1]}."


def test_the_checkpoint_folder_is_taken_from_the_output_dir_of_the_trainer():
    source = inspect.getsource(Trainer._save_checkpoint)
    assert "run_dir = self._get_output_dir(" in source, "checkpoints would not be written to the staging folder"


def test_the_batch_size_of_a_process(trainer):
    assert compat.per_process_batch_size(trainer) == 3, "batches would have another size than the library counts with"


def test_a_batch_is_prepared_for_the_device(trainer):
    prepared = compat.prepare_inputs(trainer, {"input_ids": torch.ones(2)})
    assert prepared["input_ids"].device == trainer.args.device, "batches would stay on the CPU"


def test_a_scheduler_that_is_marked_is_created_anew_by_the_next_training(trainer):
    compat.mark_scheduler_as_created(trainer)
    source = inspect.getsource(Trainer)
    assert trainer._created_lr_scheduler
    assert "if self._created_lr_scheduler:" in source, "a second train() would go on with the finished schedule"


def test_pushes_are_waited_for(trainer):
    class Push:
        done = False

        def is_done(self):
            return self.done

        def wait_until_done(self):
            self.done = True

    trainer.push_in_progress = Push()
    compat.wait_for_pushes(trainer)
    assert trainer.push_in_progress.done, "the last commit could be overtaken by a checkpoint's"


def test_a_push_in_progress_holds_its_jobs():
    class Job:
        def done(self):
            return True

    assert compat.PushInProgress([Job()]).is_done(), "a running upload would not be noticed"


def test_compilation_is_taken_over():
    assert hasattr(Accelerator(cpu=True).state.dynamo_plugin, "backend"), "torch_compile=True would not be noticed"
    plugin = TorchDynamoPlugin(backend=DynamoBackend.EAGER)
    accelerator = SimpleNamespace(state=SimpleNamespace(dynamo_plugin=plugin))  # the real state is a singleton
    limit = torch._dynamo.config.recompile_limit
    try:
        assert compat.take_over_compilation(accelerator)["backend"] == "eager", "layers would be compiled otherwise"
        assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO, "the whole model would be compiled as well"
        assert torch._dynamo.config.recompile_limit >= compat.RECOMPILATIONS, "layers would run uncompiled"
        assert compat.take_over_compilation(accelerator) is None
    finally:
        torch._dynamo.config.recompile_limit = limit


def test_a_missing_file_of_a_model_is_none(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    assert compat.find_file(str(tmp_path), "modules.json") == str(tmp_path / "modules.json")
    assert compat.find_file(str(tmp_path), "absent.json") is None, "teachers would not be told from sentence encoders"


def test_the_strategies_of_uploads_are_the_four_that_are_handled():
    names = {strategy.name for strategy in compat.HubStrategy}
    assert names == {"END", "EVERY_SAVE", "CHECKPOINT", "ALL_CHECKPOINTS"}, "a new one would upload only the model"


def test_a_bar_passes_its_items_on():
    assert [*compat.tqdm([1, 2], "fitting", total=2, leave=False)] == [1, 2], "layers would not be fitted"


def test_an_evaluation_has_the_metrics_of_its_loop():
    fields = ("predictions", "label_ids", "metrics", "num_samples")
    assert compat.EvalLoopOutput._fields == fields, "the loop is only passed on, but its type is named"


def test_checkpoints_are_rotated_by_their_step(tmp_path):
    for step in (2, 10, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    compat.rotate_checkpoints(str(tmp_path), 2, None)
    assert not (tmp_path / "checkpoint-2").exists(), "checkpoints would fill the disk"


def test_the_attention_implementation_can_be_read_and_set_back():
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9
    )
    model = transformers.BertModel(config)
    before = compat.attention_implementation(model)
    model.set_attn_implementation("eager")
    assert compat.attention_implementation(model) == "eager", "a teacher would keep the recording kernel"
    model.set_attn_implementation(before)
    assert compat.attention_implementation(model) == before


def test_the_fused_kernel_and_its_mask_are_where_they_were():
    parameters = [*inspect.signature(compat.sdpa_attention_forward).parameters]
    assert parameters[:5] == ["module", "query", "key", "value", "attention_mask"], "projections cannot be recorded"
    assert compat.sdpa_mask is transformers.AttentionMaskInterface()["sdpa"], "a recorded layer would see padding"
