"""A GPU against the CPU: the same steps, runs that go on there, and nothing left behind on another device.

`training/gpu_check.sh` runs these on a machine that has one; elsewhere they are passed over.
"""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from haba_hf.distillation import Distiller, ExpertStore, record_experts
from haba_hf.distillation.objectives.adjoint import Trajectory
from haba_hf.distillation.objectives.scratch import ScratchMemory
from haba_hf.evaluation import evaluate_artifact
from haba_hf.runs import build_objective
from tiny import NETWORK, gradients, launch_processes, states, tiny_data, tiny_model, tiny_recipe
from tiny_runs import stored

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]

SETTINGS = {
    "dm": {},
    "dm in subsets": {"objective": "dm", "samples_per_class": 3},
    "dm of a bank": {"objective": "dm", "network_bank": 2},
    "mtt": {"pairing": "sample"},
    "mtt by a graph": {"objective": "mtt", "unroll": "graph"},
    "mtt in micro-batches": {"objective": "mtt", "micro_batch_size": 3},
    "dc": {},
    "dsa": {},
    "idc": {"contrast": "supervised"},
    "cafe": {"steps_per_network": None, "epochs_per_step": None, "query_batch_size": 4, "max_inner_epochs": 3},
    "dd": {"pairing": "sample"},
    "ld": {"student_batch_size": 5, "label_learning_rate": 0.1},
}
SIZES = {
    "dd": {"num_step_sizes": 2},
    "ld": {"label_kind": "soft", "num_hallucinators": 0},
    "dm": {"basis_storage": "frequencies", "basis_frequencies": 16},
    "dm of a bank": {"basis_storage": "luma_chroma", "basis_height": 4, "basis_width": 4},
}


@pytest.fixture(autouse=True)
def exact():
    """Products of float32 in float32, and an Accelerate that has not chosen a device yet, before and after."""
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


def accelerator_on(device, **settings):
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device == "cpu", **settings)
    assert accelerator.device.type == device
    return accelerator


@pytest.fixture(scope="module")
def experts_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("experts")
    record_experts(tiny_data(), NETWORK, stored(directory), 3, accelerator_on("cpu"))
    return directory


def make(name, device, output_dir, experts_dir, kind=Distiller):
    settings = {"objective": name.split()[0], "output_dir": str(output_dir)} | SETTINGS[name]
    experts = {"experts_dir": str(experts_dir), "num_experts": 2, "expert_batch_size": 10}
    recipe, data = tiny_recipe(**settings, **experts), tiny_data()
    model = tiny_model(data, **SIZES.get(name, {}))
    sections = recipe.distillation, recipe.adversary, recipe.network
    objective = build_objective(recipe, data)
    return kind(model, objective, *sections, data, accelerator_on(device), settings={"recipe": "abc"})


def distance(found, expected):
    """|| found - expected || / || expected ||, over everything."""
    found, expected = (torch.cat([x.double().cpu().flatten() for x in values]) for values in (found, expected))
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_gives_the_gradients_that_it_gives_on_a_cpu(tmp_path, experts_dir, name):
    logs, found = {}, {}
    for device in ("cpu", "cuda"):
        distiller = make(name, device, tmp_path, experts_dir)
        logs[device] = distiller.step()
        found[device] = gradients(distiller.model)
        modules = [distiller.model, *([distiller.adversary.network] if distiller.adversary else [])]
        tensors = [*(tensor for module in modules for tensor in module.state_dict().values())]
        assert {tensor.device.type for tensor in tensors} == {device}
    learned = [key for key, gradient in found["cpu"].items() if gradient.abs().max() > 0]
    assert "bases" in learned or "label_logits" in learned
    assert distance([found["cuda"][key] for key in learned], [found["cpu"][key] for key in learned]) < 1e-3
    assert logs["cuda"] == pytest.approx(logs["cpu"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["dm", "mtt", "cafe", "ld"])
def test_a_run_resumed_there_ends_as_an_uninterrupted_one(tmp_path, experts_dir, name):
    class Interrupted(Distiller):
        def save(self):
            super().save()
            if self.step_number == 4:
                raise KeyboardInterrupt

    whole = make(name, "cuda", tmp_path / "whole", experts_dir)
    whole.run()
    first = make(name, "cuda", tmp_path / "parts", experts_dir, kind=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    rest = make(name, "cuda", tmp_path / "parts", experts_dir)
    rest.run()
    assert rest.step_number == whole.step_number == 6
    found, expected = states(rest), states(whole)
    for key, value in expected.items():  # sums by atomic additions differ in their last bits
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_experts_trained_in_bfloat16_are_near_those_of_float32(tmp_path):
    data, ends = tiny_data(images_per_class=30), {}
    for precision in ("no", "bf16"):
        accelerator = accelerator_on("cuda", mixed_precision=precision)
        arguments = stored(tmp_path / precision)
        record_experts(data, NETWORK, arguments, 3, accelerator)
        store = ExpertStore(arguments, NETWORK, data)
        start, end = store.snapshots(0, 0, 2)
        assert start.device.type == "cpu" and end.isfinite().all()
        ends[precision] = end - start
    assert 0 < distance([ends["bf16"]], [ends["no"]]) < 0.2


def test_students_learn_there_what_they_learn_on_a_cpu(tmp_path):
    data, found = tiny_data(images_per_class=20), {}
    model = tiny_model(data)
    recipe = tiny_recipe(evaluation_seeds=2, student_epochs=3, evaluation_learning_rate=0.05)
    for device in ("cpu", "cuda"):
        networks = {}
        arguments = recipe.network, recipe.evaluation, 0, accelerator_on(device)
        evaluate_artifact(
            model,
            data.test,
            data.processor,
            *arguments,
            on_student=lambda index, network, of=networks: of.update({index: network}),
        )
        found[device] = [parameter for index in sorted(networks) for parameter in networks[index].parameters()]
    assert {parameter.device.type for parameter in found["cuda"]} == {"cuda"}
    assert model.device.type == "cpu"
    assert distance([p.detach() for p in found["cuda"]], [p.detach() for p in found["cpu"]]) < 1e-3


def test_what_a_run_puts_aside_stays_on_the_device_and_spills_into_the_host():
    trajectory = Trajectory(device=torch.device("cuda"))
    thetas = [torch.randn(1000, device="cuda") for _ in range(4)]
    for theta in thetas:
        trajectory.append(theta)
    assert all(torch.equal(trajectory[step], theta) for step, theta in enumerate(thetas))
    scratch = ScratchMemory(device_bytes=8000)
    places = [scratch.append(theta) for theta in thetas]
    assert [scratch._tensors[place][0].device.type for place in places] == ["cuda", "cuda", "cpu", "cpu"]
    assert scratch._tensors[places[-1]][0].is_pinned()
    assert all(torch.equal(scratch[place], theta) for place, theta in zip(places, thetas, strict=True))


def test_one_process_talks_to_itself_by_nccl(tmp_path):
    (line,) = launch_processes(
        tmp_path,
        """
        import sys
        import torch
        from accelerate import Accelerator
        from haba_hf.distillation import Distiller
        from haba_hf.runs import build_objective
        from tiny import tiny_data, tiny_model, tiny_recipe

        accelerator, data = Accelerator(), tiny_data()
        recipe = tiny_recipe(objective="dm", output_dir=sys.argv[1])
        sections = recipe.distillation, recipe.adversary, recipe.network
        objective = build_objective(recipe, data)
        distiller = Distiller(tiny_model(data), objective, *sections, data, accelerator, settings={})
        distiller.run()
        device = distiller.model.device.type
        print("RESULT", torch.distributed.get_backend(), accelerator.num_processes, device)
        """,
        str(tmp_path / "run"),
        count=1,
        cpu=False,
    )
    assert line in ("RESULT nccl 1 cuda", "RESULT cuda:nccl 1 cuda")
