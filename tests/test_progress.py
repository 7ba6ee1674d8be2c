"""What the bar shows in a real run."""

import re

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
