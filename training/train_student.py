"""Train one student on an artifact, test it, and keep it.

    accelerate launch training/train_student.py training/recipes/digits/dm-1pc.yaml
    accelerate launch training/train_student.py training/recipes/digits/dm-1pc.yaml --artifact user/haba-digits \
        --student_width 256 --student_epochs 2000

Every epoch each basis meets one hallucinator drawn at random (online pairing). The student
is written to `output_dir/student` with its settings and the processor that its images need:

    settings = json.loads(Path("student/student.json").read_text())
    network = build_network(NetworkArguments(**settings["network"]), settings["image_shape"], num_labels, seed=0)
    load_model(network, "student/model.safetensors")  # safetensors.torch
    logits = network(AutoImageProcessor.from_pretrained("student")(images)["pixel_values"])
"""

from haba_hf.recipes import parse_recipe, run_script
from haba_hf.runs import start_accelerator, train_one_student


def main():
    recipe = parse_recipe(description=__doc__)
    accelerator = start_accelerator()
    accuracy = train_one_student(recipe, accelerator)
    split = recipe.evaluation.evaluation_split
    accelerator.print(f"{recipe.distillation.output_dir}/student: {100 * accuracy:.1f} % on the {split} split")
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
