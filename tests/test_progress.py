"""What the bar shows in a real run."""

import re

from transformers import TrainerControl, TrainerState, TrainingArguments

from mobilebert_hf.progress import StageProgress

from .distillation.encoders import run_distillation, save_teacher


def test_the_bar_shows_loss_speed_and_the_cosines_of_the_layers(tmp_path, tiny_corpus, tiny_tokenizer, capfd):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    trainer = run_distillation(teacher, tiny_corpus, tmp_path, steps=12, disable_tqdm=False, logging_steps=4)
    bar = capfd.readouterr().err
    shown = re.findall(r"cosines=([\d. ]+)", bar)
    assert shown, bar[-2000:]
    logged = [line for line in trainer.state.log_history if "layer_0/feature_map" in line][-1]
    places = ("embeddings", "layer_0", "layer_1", "layer_2")
    expected = " ".join(f"{1 - logged[f'{place}/feature_map'] / 2:.2f}" for place in places)
    assert shown[-1].strip() == expected
    assert "tokens/s" in bar


def test_the_librarys_bar_can_be_written_to(tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    state = TrainerState(max_steps=3, is_local_process_zero=True, is_world_process_zero=True)
    progress = StageProgress("training")
    progress.on_train_begin(arguments, state, TrainerControl())
    assert hasattr(progress.training_bar, "set_postfix"), "the bar would show nothing"
    progress.on_train_end(arguments, state, TrainerControl())
