"""Ship what was trained, without paths and what only training needs: a feature network or the weights of Glance.

python benchmarks/ship.py network runs/cifar-fs-rotation/model.safetensors
python benchmarks/ship.py glance start.safetensors runs/tuned-1/model.safetensors runs/tuned-2/model.safetensors

Of several trainings that began with the same weights, the mean of these and of all others is shipped, which loses less
than each of them where the first were good (Wortsman et al., "Model soups", ICML 2022).
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from onelook import artifacts
from onelook.artifacts import SHIPPED_METHODS, SHIPPED_NETWORK, Artifact
from onelook.files import digest

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("kind", choices=("network", "glance"))
parser.add_argument("models", type=Path, nargs="+")


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    sources = ["@".join(Path(part).name for part in source.split("@")) for source in config["sources"]]
    return config | {"sources": sources}


def average(models: list[Path]) -> Artifact:
    """The mean of the weights of a method and of those that were trained from it on, alike but for the seed."""
    methods, abouts = zip(*map(artifacts.load_method, models), strict=True)
    config, *others = [without_paths(about["config"]) for about in abouts]
    if others:
        start = {"start": digest(models[0].read_bytes()).hex()[:16]}
        seeded = {key: [other[key] for other in others] for key in ("seed", "features")}
        config = others[0] | start | seeded
        if any(start | other | seeded != config for other in others):
            raise SystemExit("Give the first weights, and those of trainings from them that differ in --seed alone.")
    weights = [method.state_dict() for method in methods]
    methods[0].load_state_dict({name: torch.stack([one[name] for one in weights]).mean(0) for name in weights[0]})
    return artifacts.method_artifact(methods[0], {"config": config})


def main() -> None:
    args = parser.parse_args()
    if args.kind == "network":
        backbone, about = artifacts.load_backbone(*args.models)
        config, place = about["config"] | {"data": Path(about["config"]["data"]).name}, SHIPPED_NETWORK
        shipped = artifacts.backbone_artifact(backbone, about["name"], {"config": config})
    else:
        shipped, place = average(args.models), SHIPPED_METHODS["glance"]
    artifacts.save(shipped, place)
    print(f"{place}: {sum(x.numel() for x in shipped.tensors.values()):,} numbers")


if __name__ == "__main__":
    main()
