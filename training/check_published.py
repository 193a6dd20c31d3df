"""
Train one student on published artifacts by `train_student`, as their cards say, and set what it reaches beside the
card's first student, whose seed it has.

    python training/check_published.py --data_root path/to/data                    # all of hub_cards/published
    python training/check_published.py --data_root path/to/data digits-dm-1pc ...  # some

A folder of `data_root` has the name of a data set; without it they come from the Hub. Accuracies differ in the last
digits between machines.
"""

import argparse
from pathlib import Path

from haba_hf import published_artifact, train_student
from haba_hf.data import load_image_data
from haba_hf.evaluation import accuracy
from haba_hf.hub import Artifact, read_artifact
from haba_hf.hub.records import RESULTS
from haba_hf.recipes import data_arguments_of
from haba_hf.utils.shipped import published_artifacts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(published_artifacts()), help="of artifacts (all)")
    parser.add_argument("--data_root", type=Path, help="folder of data sets by name")
    arguments = parser.parse_args()
    print("| artifact | this student (%) | the card's first (%) | the card's students (%) |\n|---|---|---|---|")
    for name in arguments.names:
        artifact = read_artifact(published_artifact(name))
        test = real_test_images(artifact, arguments.data_root)
        network = train_student(artifact.model, seed=artifact.measurements[RESULTS]["seed"])
        reached = accuracy(network, test.images, test.labels, artifact.processor)
        card = artifact.rows[0].accuracy
        students = f"{100 * card.mean:.1f} ± {100 * card.std:.1f}"
        print(f"| {name} | {100 * reached:.1f} | {100 * card.accuracies[0]:.1f} | {students} |", flush=True)


def real_test_images(artifact: Artifact, data_root: Path | None):
    """The test split that the artifact's students were scored on, by its own recipe."""
    dataset, data_dir = artifact.recipe["dataset"], None
    if data_root is not None and dataset != "digits":  # which comes with scikit-learn
        data_dir = str(data_root / dataset)
    data = load_image_data(data_arguments_of(artifact.recipe, data_dir=data_dir))
    if data.fingerprint != artifact.origin["data_fingerprint"]:
        raise ValueError(f"{dataset} is not the data that {artifact.directory.name} was made of.")
    return data.test


if __name__ == "__main__":
    main()
