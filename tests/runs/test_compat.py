"""Contracts with what is private or unstable in transformers and accelerate: each says what depends on it."""

from transformers import TrainingArguments

from mobilebert_hf.runs import compat


def test_objects_are_broadcast_in_place_and_returned():
    assert compat.broadcast_object_list([{"steps": 3}]) == [{"steps": 3}], "processes would plan different steps"


def test_checkpoints_are_sorted_by_their_step(tmp_path):
    for step in (2, 10, 4):
        (tmp_path / f"{compat.PREFIX_CHECKPOINT_DIR}-{step}").mkdir()
    names = [path.rsplit("-", 1)[1] for path in compat.sort_checkpoints(str(tmp_path))]
    assert names == ["2", "4", "10"], "a run would resume from an older checkpoint"


def test_an_accelerator_configuration_that_was_not_set_is_known(tmp_path):
    found = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none").to_dict()["accelerator_config"]
    found.pop("use_configured_state", None)
    assert found == compat.default_accelerator_config(), "recipes would list values that nobody set"
