"""Make the feature network that comes along of one that `onelook pretrain` made, without its classifier and paths."""

import argparse
from pathlib import Path

from onelook import artifacts
from onelook.artifacts import SHIPPED_NETWORK

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", type=Path)
backbone, about = artifacts.load_backbone(parser.parse_args().model)
config = about["config"] | {"data": Path(about["config"]["data"]).name}
artifacts.save(artifacts.backbone_artifact(backbone, about["name"], {"config": config}), SHIPPED_NETWORK)
print(f"{SHIPPED_NETWORK}: {sum(x.numel() for x in backbone.state_dict().values()):,} numbers")
