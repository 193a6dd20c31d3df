"""A run that is validated on the way."""

import pytest

from haba_hf import HabaModel
from haba_hf.distillation.checkpoints import latest_checkpoint
from tiny import assert_same, metrics, tiny_recipe
from tiny_runs import Interrupted, make


class TestValidation:
    accuracies = {2: 50.0, 4: 70.0, 6: 60.0, 7: 65.0}  # noqa: RUF012

    def settings(self, output_dir, **more):
        return tiny_recipe(output_dir=str(output_dir), steps=7, validate_every=2, **more)

    def validate(self, model, step):
        self.seen[step] = {name: value.clone() for name, value in model.state_dict().items()}
        return self.accuracies[step]

    def setup_method(self):
        self.seen = {}

    def test_every_so_often_and_at_the_end(self, tmp_path):
        distiller = make(self.settings(tmp_path), validate=self.validate)
        model = distiller.run()
        assert {
            line["step"]: line["validation_accuracy"] for line in metrics(tmp_path) if "validation_accuracy" in line
        } == self.accuracies
        assert_same(dict(model.state_dict()), self.seen[7])
        assert not list((tmp_path / "checkpoints").glob("best*"))

    def test_validation_changes_nothing(self, tmp_path):
        make(self.settings(tmp_path / "a"), validate=self.validate).run()
        make(tiny_recipe(output_dir=str(tmp_path / "b"), steps=7)).run()
        with_validation = [
            {key: value for key, value in line.items() if key != "validation_accuracy"}
            for line in metrics(tmp_path / "a")
        ]
        assert with_validation == metrics(tmp_path / "b")

    def test_keep_best(self, tmp_path, capsys):
        model = make(self.settings(tmp_path, keep_best=True), validate=self.validate).run()
        assert_same(dict(model.state_dict()), self.seen[4])
        assert_same(
            dict(HabaModel.from_pretrained(tmp_path / "checkpoints" / "best-00000004").state_dict()), self.seen[4]
        )
        assert "Kept step 4, the best of the validations (70.0 %)" in capsys.readouterr().out
        assert latest_checkpoint(tmp_path).name == "step-00000007"

    @pytest.mark.parametrize("best_step", [4, 7])
    def test_keep_best_over_an_interruption(self, tmp_path, best_step):
        self.accuracies = {2: 50.0, 4: 55.0, 6: 54.0, 7: 53.0} | {best_step: 90.0}
        recipe = self.settings(tmp_path, keep_best=True)
        with pytest.raises(KeyboardInterrupt):
            make(recipe, validate=self.validate, kind=Interrupted).run()
        model = make(recipe, validate=self.validate, model_seed=9).run()
        assert_same(dict(model.state_dict()), self.seen[best_step])
        # Run once more, the finished run gives the same model.
        again = make(recipe, validate=self.validate, model_seed=9).run()
        assert_same(dict(again.state_dict()), self.seen[best_step])

    def test_the_first_of_equals_is_kept(self, tmp_path):
        self.accuracies = dict.fromkeys((2, 4, 6, 7), 50.0)
        model = make(self.settings(tmp_path, keep_best=True), validate=self.validate).run()
        assert_same(dict(model.state_dict()), self.seen[2])

    def test_one_without_the_other(self, tmp_path):
        with pytest.raises(ValueError, match="validate and validate_every need each other"):
            make(tiny_recipe(output_dir=str(tmp_path)), validate=self.validate)
        with pytest.raises(ValueError, match="validate and validate_every need each other"):
            make(self.settings(tmp_path))
