import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from haba_hf.artifact.processing_haba import HabaImageProcessor
from haba_hf.coresets import real_images_config
from haba_hf.data import Split
from haba_hf.data.corruptions import CORRUPTIONS, SEVERITIES, STANDARD_CORRUPTIONS, corrupt
from haba_hf.evaluation import (
    AccuracyResult,
    EvaluationArguments,
    RobustnessResult,
    TrainedStudents,
    evaluate_artifact,
    evaluate_full_data,
    evaluate_random_real,
    robustness_table,
    score_under_corruption,
)
from haba_hf.hub import plot_robustness, save_contact_sheet
from tiny import NETWORK, launch_processes, tiny_accelerator, tiny_data, tiny_model


class Fixed(nn.Module):
    """Says that an image's class is its first pixel's value, plus `offset`."""

    def __init__(self, offset=0):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(float(offset)))

    def forward(self, images):
        values = (images[:, 0, 0, 0] * 255 + self.offset).round().long().clamp(0, 9)
        return torch.nn.functional.one_hot(values, 10).float()


def scripted(corruption, severity):
    """Ten images of which the first pixel says the class in all but as many as the severity and the corruption ask."""
    labels = torch.arange(10)
    values = labels.clone()
    wrong = min(severity + CORRUPTIONS.index(corruption) % 2, 9)
    values[:wrong] = (values[:wrong] + 5) % 10
    return Split(values.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8), labels)


def students(system, offsets, clean):
    processor = HabaImageProcessor(size={"height": 8, "width": 8})
    networks = {index: Fixed(offset) for index, offset in enumerate(offsets)}
    return TrainedStudents(system, processor, networks, AccuracyResult(0, 0, clean, 0))


def test_scores_against_a_script():
    calls = []

    def corrupted(corruption, severity):
        calls.append((corruption, severity))
        return scripted(corruption, severity)

    systems = [students("right", [0], [1.0]), students("mixed", [0, 1], [0.9, 0.1])]
    right, mixed = score_under_corruption(systems, corrupted, tiny_accelerator())
    assert calls == [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
    for i, corruption in enumerate(CORRUPTIONS):
        for level, severity in enumerate(SEVERITIES):
            expected = 1 - (severity + i % 2) / 10
            assert right.accuracies[corruption][level] == [pytest.approx(expected)]
            # one too much is the class of nothing but 9, which stays 9 unless it was made wrong
            assert mixed.accuracies[corruption][level] == [pytest.approx(expected), pytest.approx(0.1)]
    assert right.clean == [1.0] and mixed.clean == [0.9, 0.1]


def test_the_curve_is_a_mean_over_corruptions_and_then_over_students():
    random = np.random.default_rng(0)
    scores = random.random((19, 5, 3))
    accuracies = {name: scores[i].tolist() for i, name in enumerate(CORRUPTIONS)}
    result = RobustnessResult("x", [0.5, 0.7, 0.9], accuracies)
    for corruptions, rows in ((CORRUPTIONS, slice(19)), (STANDARD_CORRUPTIONS, slice(15))):
        curve = np.array(result.curve(corruptions))
        assert curve[0] == pytest.approx([0.7, np.std([0.5, 0.7, 0.9])])
        of_students = scores[rows].mean(axis=0)
        assert curve[1:, 0] == pytest.approx(of_students.mean(axis=1))
        assert curve[1:, 1] == pytest.approx(of_students.std(axis=1))


def flat(system, *levels):
    return RobustnessResult(system, [levels[0]], {name: [[level] for level in levels[1:]] for name in CORRUPTIONS})


def test_table_and_picture(tmp_path):
    results = [flat("HaBa", 0.6, 0.5, 0.45, 0.4, 0.35, 0.3), flat("full data", 0.8, 0.7, 0.6, 0.5, 0.4, 0.2)]
    lines = robustness_table(results).splitlines()
    assert lines[0].startswith("| system | corruptions | clean | severity 1 |")
    assert lines[2] == "| HaBa | 19 | 60.0 ± 0.0 | 50.0 ± 0.0 | 45.0 ± 0.0 | 40.0 ± 0.0 | 35.0 ± 0.0 | 30.0 ± 0.0 |"
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| HaBa", "19"],
        ["| full data", "19"],
        ["| HaBa", "15"],
        ["| full data", "15"],
    ]
    plot_robustness(results, tmp_path / "one.png")
    plot_robustness([results[1]], tmp_path / "two.png")
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("one", "two"))
    assert one.shape == two.shape == (400, 600, 3) and (one != two).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_the_contact_sheet_shows_every_corruption(tmp_path):
    image = tiny_data(side=16).train.images[0]
    save_contact_sheet(image, tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert picture.shape[0] > 19 * 64 and picture.shape[1] > 6 * 64
    tile = image.permute(1, 2, 0).numpy().repeat(4, axis=0).repeat(4, axis=1)
    left = picture.shape[1] - 10 - (6 * 68 - 4)
    for row in range(19):
        assert np.array_equal(picture[30 + 68 * row :, left:][:64, :64], tile), "the clean image comes first"
        corrupted = picture[30 + 68 * row :, left + 68 :][:64, :64]
        assert not np.array_equal(corrupted, tile)
    with pytest.raises(ValueError, match="color images"):
        save_contact_sheet(image[:1], tmp_path / "grey.png")


def test_every_evaluation_hands_out_its_students():
    data, accelerator = tiny_data(images_per_class=8), tiny_accelerator()
    model = tiny_model(data)
    args = EvaluationArguments(evaluation_seeds=2, student_epochs=2, real_student_epochs=1, evaluation_dsa="none")
    common = (NETWORK, args, 0, accelerator)
    evaluations = {
        "artifact": lambda add: evaluate_artifact(model, data.test, data.processor, *common, on_student=add),
        "random": lambda add: evaluate_random_real(
            data, data.test, real_images_config(data, 2), *common, on_student=add
        ),
        "full": lambda add: evaluate_full_data(data, data.test, *common, on_student=add),
    }
    for evaluation in evaluations.values():
        networks = {}
        result = evaluation(networks.__setitem__)
        assert list(networks) == [0, 1]
        for index, network in networks.items():
            right = network(data.processor.normalize(data.test.images)).argmax(dim=1) == data.test.labels
            assert right.double().mean().item() == pytest.approx(result.accuracies[index])


def test_processes_share_the_students(tmp_path):
    script = """
        import json
        import sys
        from accelerate import Accelerator
        from haba_hf.data.corruptions import CORRUPTIONS, corrupt
        from haba_hf.data import Split
        from haba_hf.evaluation import EvaluationArguments, TrainedStudents, evaluate_artifact, score_under_corruption
        from tiny import NETWORK, tiny_data, tiny_model

        accelerator = Accelerator(cpu=True)
        data = tiny_data(seed=3)
        args = EvaluationArguments(evaluation_seeds=3, student_epochs=4, evaluation_dsa="none")
        networks = {}
        clean = evaluate_artifact(tiny_model(data), data.test, data.processor, NETWORK, args, 0, accelerator,
                                  on_student=networks.__setitem__)
        students = TrainedStudents("x", data.processor, networks, clean)
        def corrupted(corruption, severity):
            return Split(corrupt(data.test.images, corruption, severity), data.test.labels)
        (result,) = score_under_corruption([students], corrupted, accelerator)
        with open(f"{sys.argv[1]}/{accelerator.process_index}.json", "w") as file:  # too long a line to share stdout
            json.dump([result.accuracies[name] for name in CORRUPTIONS], file)
    """
    launch_processes(tmp_path, script, str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second

    data = tiny_data(seed=3)
    args = EvaluationArguments(evaluation_seeds=3, student_epochs=4, evaluation_dsa="none")
    networks = {}
    clean = evaluate_artifact(
        tiny_model(data),
        data.test,
        data.processor,
        NETWORK,
        args,
        0,
        tiny_accelerator(),
        on_student=networks.__setitem__,
    )
    alone = TrainedStudents("x", data.processor, networks, clean)

    def corrupted(corruption, severity):
        return Split(corrupt(data.test.images, corruption, severity), data.test.labels)

    (result,) = score_under_corruption([alone], corrupted, tiny_accelerator())
    assert first == [result.accuracies[name] for name in CORRUPTIONS]
