"""What a card must say about the data an artifact comes from: its title, licence and citation."""

from dataclasses import dataclass
from typing import Any

from ..data import IMAGENET_SUBSETS, NAMED_DATASETS
from ..utils.text import plain


@dataclass(frozen=True)
class Source:
    """
    Real data, as a card names it.

    Args:
        title (`str`): its name in print.
        hub_id (`str`, *optional*): where it is on the Hub.
        license_id (`str`, *optional*, defaults to `"unknown"`): the Hub's identifier of its licence.
        license_text (`str`, *optional*): a sentence about it.
        citation (`str`, *optional*): BibTeX, empty if there is none.
        is_part (`bool`, *optional*, defaults to `False`):
            Only some classes of what is on the Hub: an accuracy on it is none on the whole.
    """

    title: str
    hub_id: str | None = None
    license_id: str = "unknown"
    license_text: str = "The licence of the source data is not on record: check it before you share samples."
    citation: str = ""
    is_part: bool = False


CIFAR_CITATION = """@techreport{krizhevsky2009learning,
  title       = {Learning Multiple Layers of Features from Tiny Images},
  author      = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year        = {2009}
}"""

# Without a Hub id: the one of ImageNet is that of all its classes, whose figures these are not.
IMAGENET = {
    name: Source(
        f"Image{name.removeprefix('image').capitalize()}, ten classes of ImageNet-1k",
        license_text="ImageNet is given for non-commercial research and education, and its images belong to their "
        "owners: check whether you may share what is derived from them.",
        citation="""@article{russakovsky2015imagenet,
  title   = {ImageNet Large Scale Visual Recognition Challenge},
  author  = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean and
             Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. and
             Fei-Fei, Li},
  journal = {International Journal of Computer Vision},
  volume  = {115},
  number  = {3},
  pages   = {211--252},
  year    = {2015}
}""",
    )
    for name in IMAGENET_SUBSETS
}

SOURCES = {
    "digits": Source(
        "scikit-learn's handwritten digits",
        NAMED_DATASETS["digits"].hub_id,
        "cc-by-4.0",
        "The digits come from the UCI Machine Learning Repository, under CC BY 4.0.",
        """@misc{alpaydin1998digits,
  title  = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  year   = {1998},
  note   = {UCI Machine Learning Repository}
}""",
    ),
    "mnist": Source(
        "MNIST",
        NAMED_DATASETS["mnist"].hub_id,
        "cc-by-sa-3.0",
        "MNIST is usually given under CC BY-SA 3.0.",
        """@article{lecun1998gradient,
  title   = {Gradient-based learning applied to document recognition},
  author  = {LeCun, Yann and Bottou, L\\'eon and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE},
  volume  = {86},
  number  = {11},
  pages   = {2278--2324},
  year    = {1998}
}""",
    ),
    "fashion_mnist": Source(
        "Fashion-MNIST",
        NAMED_DATASETS["fashion_mnist"].hub_id,
        "mit",
        "Fashion-MNIST is licensed under MIT.",
        """@article{xiao2017fashion,
  title   = {Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author  = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  journal = {arXiv preprint arXiv:1708.07747},
  year    = {2017}
}""",
    ),
    "cifar10": Source(
        "CIFAR-10",
        NAMED_DATASETS["cifar10"].hub_id,
        "unknown",
        "CIFAR-10 states no licence: check whether you may share what is derived from it.",
        CIFAR_CITATION,
    ),
    "cifar100": Source(
        "CIFAR-100",
        NAMED_DATASETS["cifar100"].hub_id,
        "unknown",
        "CIFAR-100 states no licence: check whether you may share what is derived from it.",
        CIFAR_CITATION,
    ),
    "svhn": Source(
        "SVHN",
        NAMED_DATASETS["svhn"].hub_id,
        "unknown",
        "SVHN is given for non-commercial use: check whether you may share what is derived from it.",
        """@inproceedings{netzer2011reading,
  title     = {Reading Digits in Natural Images with Unsupervised Feature Learning},
  author    = {Netzer, Yuval and Wang, Tao and Coates, Adam and Bissacco, Alessandro and Wu, Bo and Ng, Andrew Y.},
  booktitle = {NIPS Workshop on Deep Learning and Unsupervised Feature Learning},
  year      = {2011}
}""",
    ),
    "mini_speech_commands": Source(
        "Mini Speech Commands",
        NAMED_DATASETS["mini_speech_commands"].hub_id,
        "cc-by-4.0",
        "Mini Speech Commands, eight words of Speech Commands, is licensed under CC BY 4.0.",
        """@article{warden2018speech,
  title   = {Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition},
  author  = {Warden, Pete},
  journal = {arXiv preprint arXiv:1804.03209},
  year    = {2018}
}""",
        is_part=True,
    ),
    **IMAGENET,
}


def source_of(recipe: dict[str, Any], origin: dict[str, Any]) -> Source | None:
    """
    The data that an artifact's records name; `None` if none does.

    Only the recipe's own `dataset` makes it one of the known sets: a folder that is called `mnist` may hold anything.
    """
    dataset = recipe.get("dataset")
    for name, source in SOURCES.items():
        if dataset is not None and dataset in (name, source.hub_id):
            return source
    title = origin.get("dataset")
    return None if title is None else Source(plain(title))
